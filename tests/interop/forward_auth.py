"""Other proxies that ask Portcullis before each request, set up by the files in config/examples."""

import http.server
import json
import pathlib
import re
import shutil
import subprocess
import threading

import requests

from gateway import DEMO, Gateway, expect
from harness import PATIENCE, ROOT, WORK, free_port, listens

EXAMPLES = ROOT / "config" / "examples"
POOL = """
id = "eu-west-1_Embedded1"
client_id = "4hrtn0example0client0id000"
[pool.main.embedded]
address = "127.0.0.1:0"
users = [{ username = "demo", password = "Portcullis-1", email = "demo@example.com", groups = ["admin"] }]
[server]
trusted_proxies = ["127.0.0.1"]
"""
FORGED = {
    "X-Auth-Subject": "root", "X-Auth-Groups": "root", "X_Auth_Groups": "root", "X-Auth-Made-Up": "root",
    "X-Forwarded-Uri": "/public/x", "X-Forwarded-Method": "GET", "X-Forwarded-Host": "other.example",
    "X-Original-URL": "/public/x", "X-Original-Method": "GET",
}


def nginx(story):
    """nginx asks through auth_request and passes on who is calling."""
    if shutil.which("nginx") is None:
        return story.cannot("auth_request", "nginx is not installed")
    site, gateway, port = Site(), Gateway(story, POOL), free_port()
    folder = story.folder
    (folder / "site.conf").write_text(example("nginx.conf", port, gateway, site))
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log stderr; events {{}} "
        f"http {{ access_log off; {temporary} include {folder}/site.conf; }}"
    )
    story.start("nginx", ["nginx", "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf"], ready=listens(port))
    walk(story, gateway, site, port)


def caddy(story):
    """Caddy asks through forward_auth and passes on who is calling."""
    program = caddy_program()
    if program is None:
        return story.cannot("forward_auth", "there is no Caddy here")
    site, gateway, port = Site(), Gateway(story, POOL), free_port()
    (story.folder / "Caddyfile").write_text(example("Caddyfile", port, gateway, site))
    story.start(
        "caddy", [program, "run", "--config", story.folder / "Caddyfile", "--adapter", "caddyfile"],
        environment={"HOME": str(story.folder), "XDG_DATA_HOME": str(story.folder), "XDG_CONFIG_HOME": str(story.folder)},
        ready=listens(port),
    )
    walk(story, gateway, site, port)


def walk(story, gateway, site, port):
    """What must hold for each of them."""
    def ask(method, path, token=None, body=None, **headers):
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return requests.request(
            method, f"http://127.0.0.1:{port}{path}", headers=headers, data=body, timeout=PATIENCE,
            allow_redirects=False,
        )

    with story.step("the identity routes are reached through the proxy"):
        username, password = DEMO
        reply = ask("POST", "/auth/login", body=json.dumps({"username": username, "password": password}),
                    **{"Content-Type": "application/json"})
        token = expect(reply, 200)["access_token"]
    with story.step("without a token a protected path is 401 with a challenge, and the site hears nothing"):
        reply = ask("GET", "/x")
        assert reply.status_code == 401, reply.text
        assert reply.headers["WWW-Authenticate"].startswith('Bearer realm="portcullis"'), reply.headers
        assert ask("GET", "/x", "not.a.token").status_code == 401
        assert site.seen == [], site.seen
    with story.step("a good token passes, and the site learns who is calling"):
        reply = ask("POST", "/admin/x?q=1", token, body="hello")
        assert reply.status_code == 200, reply.text
        seen = site.seen.pop()
        assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/admin/x?q=1", "hello"), seen
        headers = seen["headers"]
        assert headers["x-auth-username"] == "demo" and headers["x-auth-groups"] == "admin", headers
        assert headers["x-auth-pool"] == "main" and "authorization" not in headers, headers
    with story.step("a token of the wrong kind is refused"):
        assert ask("GET", "/id/x", token).status_code == 401
        assert site.seen == [], site.seen
    with story.step("what a client forges changes neither the decision nor what the site hears"):
        assert ask("GET", "/x", **FORGED).status_code in (401, 403)
        assert ask("DELETE", "/admin/x", **FORGED).status_code in (401, 403)
        assert site.seen == [], site.seen
        names = {name: value for name, value in FORGED.items() if name.lower().startswith(("x-auth", "x_auth"))}
        reply = ask("GET", "/public/x", **names)
        assert reply.status_code == 200, reply.text
        headers = site.seen.pop()["headers"]
        left = {name: value for name, value in headers.items() if re.sub("[^a-z0-9]", "-", name).startswith("x-auth-")}
        made_up = left.pop("x-auth-made-up", None)
        # nginx has no way to remove headers by the start of their names.
        assert made_up in (None, "root") and not any(left.values()), headers
    with story.step("nobody can ask on their own through the proxy"):
        reply = ask("GET", "/auth/check", token, **{"X-Forwarded-Uri": "/x", "X-Forwarded-Method": "GET"})
        assert reply.status_code == 404, reply.text


def example(name, port, gateway, site):
    """A file as it ships, with its ports replaced by those of this run."""
    text = (EXAMPLES / name).read_text()
    for shipped, real in (("8081", port), ("8080", gateway.port), ("3000", site.port)):
        assert f"127.0.0.1:{shipped}" in text, shipped
        text = text.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{real}")
    return text


def caddy_program():
    """Caddy, installed or unpacked from the distribution's package."""
    installed = shutil.which("caddy")
    unpacked = WORK / "caddy" / "usr" / "bin" / "caddy"
    if installed is not None or unpacked.exists():
        return installed or unpacked
    folder = WORK / "caddy"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", "caddy"], cwd=folder, check=True, capture_output=True, timeout=PATIENCE)
        package = next(pathlib.Path(folder).glob("caddy_*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True, capture_output=True, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError, StopIteration):
        return None
    return unpacked


class Site:
    """A backend that knows nothing of tokens and keeps what it was sent."""

    def __init__(self):
        self.seen = seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("Content-Length", 0))
                seen.append({
                    "method": self.command, "path": self.path, "body": self.rfile.read(length).decode(),
                    "headers": {name.lower(): value for name, value in self.headers.items()},
                })
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
