"""A Portcullis in front of the built-in `whoami` upstream, and a client of its identity routes."""

import base64
import json

import requests

from harness import BINARY, PATIENCE, free_port

DEMO = ("demo", "Portcullis-1")


class Gateway:
    """A running gateway. Every call returns a `requests.Response`; nothing is followed or retried."""

    def __init__(self, story, pool, name="gateway", listener="", more=""):
        """`pool` is the TOML below `[pool.main]`, `listener` further lines of `[[listener]]`, `more` further
        sections."""
        self.port, self.admin_port = free_port(), free_port()
        self._session = requests.Session()
        self._session.trust_env = False
        config = story.folder / f"{name}.toml"
        config.write_text(f"""
version = 1
[[listener]]
address = "127.0.0.1:{self.port}"
{listener}
[admin]
address = "127.0.0.1:{self.admin_port}"
[log]
level = "debug"
[pool.main]
{pool}
[upstream.app]
servers = ["whoami:"]
[[route]]
path = "/*"
upstream = "app"
[[route]]
path = "/public/*"
upstream = "app"
access = "public"
[[route]]
path = "/id/*"
upstream = "app"
access = {{ token_use = ["id"] }}
[[route]]
path = "/admin/*"
upstream = "app"
access = {{ groups = ["admin"] }}
{more}
""")
        self.process = story.start(name, [BINARY, "run", "--config", config], ready=self._is_ready)

    def _is_ready(self):
        try:
            return self.admin("/ready").status_code == 200
        except requests.ConnectionError:
            return False

    def admin(self, path):
        """GET on the admin listener."""
        return self._session.get(f"http://127.0.0.1:{self.admin_port}{path}", timeout=PATIENCE)

    def get(self, path, token=None, **headers):
        """GET on the public listener, with a Bearer token if given."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return self._session.get(
            f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=PATIENCE, allow_redirects=False
        )

    def post(self, path, token=None, **members):
        """POST of a JSON object on the public listener."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return self._session.post(
            f"http://127.0.0.1:{self.port}{path}", json=members, headers=headers, timeout=PATIENCE,
            allow_redirects=False,
        )

    def code_for(self, username):
        """The newest code that the embedded pool "sent" to a user."""
        entry = next(entry for entry in objects(self.admin("/outbox").json()) if entry.get("username") == username)
        return entry["code"]


def objects(value):
    """All JSON objects inside a value, outermost and first ones first."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(inner)


def expect(response, status, code=None):
    """Asserts status and problem code, and returns the JSON body (or None)."""
    told = f"{response.request.method} {response.request.path_url}: {response.status_code} {response.text[:500]}"
    assert response.status_code == status, f"{told}, not {status}"
    body = response.json() if response.text else None
    if code is not None:
        assert body["code"] == code, f"{told}, not {code}"
        assert response.headers["content-type"] == "application/problem+json", told
    if status == 401:
        assert response.headers["www-authenticate"].startswith('Bearer realm="portcullis"'), told
    return body


def identity(response):
    """What `whoami` says reached it as identity headers, names in lower case."""
    headers = expect(response, 200)["headers"]
    return {name.lower(): value for name, value in headers.items() if name.lower().startswith("x-auth-")}


def tampered(token):
    """The same token, one second longer alive, with the old signature."""
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["exp"] += 1
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return ".".join([head, payload, signature])


def toml(**members):
    """Keys of a TOML table; JSON's strings, numbers, booleans and lists of them are TOML's as well."""
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in members.items())
