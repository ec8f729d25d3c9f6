"""The commands that README.md shows, run against the configuration that is shipped."""

import re

import requests

from harness import BINARY, ROOT, free_port, run_steps
from readme_script import script


def curl_lines(story):
    """the commands of README.md against config/portcullis.toml"""
    text = script((ROOT / "README.md").read_text())
    for shipped, free in start_shipped(story).items():
        text = re.sub(rf"\b(localhost|127\.0\.0\.1):{shipped}\b", f"127.0.0.1:{free}", text)
    run_steps(story, ["bash", "-c", text], "README.md")


def start_shipped(story):
    """Runs config/portcullis.toml from a folder of its own; returns the free ports that stand for the shipped ones."""
    text = (ROOT / "config" / "portcullis.toml").read_text()
    ports = {port: free_port() for port in re.findall(r"127\.0\.0\.1:(\d+)", text)}
    for shipped, free in ports.items():
        text = text.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{free}")
    folder = story.folder / "config"
    folder.mkdir()
    (folder / "portcullis.toml").write_text(text)

    def ready():
        try:
            return requests.get(f"http://127.0.0.1:{ports['9901']}/ready", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    story.start("portcullis", [BINARY, "run", "--config", folder / "portcullis.toml"], ready=ready)
    return ports
