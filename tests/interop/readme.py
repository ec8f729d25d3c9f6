"""The commands that README.md shows, run in their order against the configuration that is shipped.

Of its `sh` blocks, the lines that begin with `curl` or assign a variable from one (`TOKEN=$(curl …`)
are run, in one shell, with the ports of `config/portcullis.toml` replaced by free ones. A comment that
begins with a status, `# 401 …`, is what the line must answer; without one it must be below 400.
"""

import re
import subprocess

import requests

from harness import BINARY, PATIENCE, ROOT, free_port

SHELL = """
BODY=$(mktemp) STATUS=$(mktemp)
curl() { command curl -m 20 "$@" -o "$BODY" -w '%{http_code}' >"$STATUS"; local code=$?; cat "$BODY"; return $code; }
"""


def curl_lines(story):
    """the commands of README.md against config/portcullis.toml"""
    with story.step("README.md shows curl commands, one of them refused and one with a token"):
        commands = list(commands_of((ROOT / "README.md").read_text()))
        shown = "\n".join(command for command, _ in commands)
        assert "/auth/login" in shown and "Authorization: Bearer $TOKEN" in shown, shown
        assert 401 in [status for _, status in commands], commands
    ports = start_shipped(story)

    script, results = [SHELL], story.folder / "results"
    for command, _ in commands:
        for shipped, free in ports.items():
            command = re.sub(rf"\b(localhost|127\.0\.0\.1):{shipped}\b", f"127.0.0.1:{free}", command)
        script.append(f": >$STATUS\n{command} >{story.folder}/out 2>&1\n"
                      f"echo \"$? $(cat $STATUS) $(head -c 300 {story.folder}/out | tr '\\r\\n' '  ')\" >>{results}")
    subprocess.run(["bash", "-c", "\n".join(script)], check=True, timeout=PATIENCE * 2, cwd=story.folder,
                   stdin=subprocess.DEVNULL)

    for (command, expected), result in zip(commands, results.read_text().splitlines(), strict=True):
        with story.step(f"{command[:90]}{'…' if len(command) > 90 else ''}  # {expected or 'fine'}"):
            exit_code, status, _ = result.split(" ", 2)
            assert exit_code == "0", result
            assert int(status) == expected if expected else int(status) < 400, result


def commands_of(text):
    """(command, expected status or None) of each line of the `sh` blocks that asks the gateway something."""
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"^\$ ", "", line.strip())
            if re.match(r"curl\b|[A-Z_]+=.*\bcurl\b", line):
                comment = re.search(r"\s#\s*(\d{3})?\b.*$", line)
                command = line[: comment.start()] if comment else line
                yield command.strip(), int(comment[1]) if comment and comment[1] else None


def start_shipped(story):
    """Runs config/portcullis.toml from a folder of its own, on free ports."""
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
