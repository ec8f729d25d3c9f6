"""HTTP/2 clients that other people wrote, with prior knowledge: curl and h2load (both on nghttp2)."""

import json
import re
import shutil
import subprocess

from gateway import DEMO, Gateway, expect, toml
from harness import PATIENCE

POOL = toml(id="eu-west-1_Embedded1", client_id="4hrtn0example0client0id000") + """
[pool.main.embedded]
address = "127.0.0.1:0"
users = [{ username = "demo", password = "Portcullis-1", email = "demo@example.com", groups = ["admin"] }]"""


def curl_and_h2load(story):
    """curl and h2load over HTTP/2 without TLS"""
    gateway = Gateway(story, POOL, listener="h2c = true")
    url = f"http://127.0.0.1:{gateway.port}"
    token = expect(gateway.post("/auth/login", username=DEMO[0], password=DEMO[1]), 200)["access_token"]

    with story.step("curl: GET, HEAD and POST are HTTP/2, and the upstream sees plain requests"):
        answer = curl(f"{url}/public/a?b=c", "-b", "a=1; b=2")
        assert (answer.version, answer.status) == ("2", 200), answer
        seen = json.loads(answer.body)
        assert (seen["path"], seen["query"]) == ("/public/a", "b=c"), seen
        assert seen["headers"]["host"] == f"127.0.0.1:{gateway.port}", seen
        assert seen["headers"]["cookie"] == "a=1; b=2", seen
        head = curl(f"{url}/public/a", "-I")
        assert head.status == 200 and "content-length" in head.head.lower(), head
        assert json.loads(curl(f"{url}/public/a", "-d", "abc").body)["body_length"] == 3

    with story.step("curl: a protected route with and without a token"):
        refused = curl(f"{url}/app")
        assert refused.status == 401 and json.loads(refused.body)["code"] == "token_missing", refused
        assert "www-authenticate: Bearer" in refused.head, refused
        passed = curl(f"{url}/app", "-H", f"Authorization: Bearer {token}")
        assert passed.status == 200 and "x-auth-username" in json.loads(passed.body)["headers"], passed

    with story.step("curl: an upload of 20 MB arrives, and one that is refused is answered before its end"):
        upload = story.folder / "upload"
        upload.write_bytes(b"x" * 20_000_000)
        sent = curl(f"{url}/public/a", "-T", upload)
        assert json.loads(sent.body)["body_length"] == 20_000_000, sent
        assert curl(f"{url}/app", "-T", upload).status == 401

    story.cannot(
        "curl: several requests over one connection",
        "with prior knowledge curl 7.88 fails (16) when it uses a connection again, Node's server included",
    )

    with story.step("curl: HTTP/1.1 on the same listener, and no upgrade from it"):
        plain = curl(f"{url}/public/a", "--http1.1")
        assert (plain.version, plain.status) == ("1.1", 200), plain
        offered = curl(f"{url}/public/a", "--http2")
        assert (offered.version, offered.status) == ("1.1", 200), offered

    if shutil.which("h2load") is None:
        story.cannot("h2load", "nghttp2-client is not installed")
        return
    with story.step("h2load: 20,000 requests over 10 connections of 20 streams"):
        h2load("-n", "20000", "-c", "10", "-m", "20", f"{url}/public/a", succeed=20_000)
    with story.step("h2load: 2,000 POST of 64 KiB with a token"):
        data = story.folder / "data"
        data.write_bytes(b"x" * 65536)
        h2load(
            "-n", "2000", "-c", "4", "-m", "10", "-d", data, "-H", f"Authorization: Bearer {token}", f"{url}/app",
            succeed=2_000,
        )
    with story.step("h2load: small windows change nothing"):
        h2load("-n", "500", "-c", "2", "-m", "5", "-w", "8", "-W", "9", f"{url}/public/a", succeed=500)


class Answer:
    """What curl printed: the heads, the last body, and what it says of the last exchange."""

    def __init__(self, done):
        assert done.returncode == 0, f"curl ended with {done.returncode}: {done.stderr}"
        self.head, _, rest = done.stdout.rpartition("\n\n")
        self.body, _, told = rest.rpartition("\n--")
        self.version, status = told.split()[-2:]
        self.status = int(status)

    def __repr__(self):
        return f"HTTP/{self.version} {self.status}\n{self.head}\n{self.body[:500]}"


def curl(url, *arguments):
    """One run of curl over HTTP/2, unless an argument says otherwise."""
    version = [] if {"--http1.1", "--http2"} & set(arguments) else ["--http2-prior-knowledge"]
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", *version, "-D", "-", "-w", "\n--%{http_version} %{http_code}"]
    done = subprocess.run([*command, *map(str, arguments), url], capture_output=True, text=True, timeout=PATIENCE)
    return Answer(done)


def h2load(*arguments, succeed):
    """Runs h2load; every request has to be answered with a 2xx."""
    done = subprocess.run(["h2load", *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE)
    requests = re.search(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    codes = re.search(r"status codes: (\d+) 2xx", done.stdout)
    assert requests and codes, done.stdout + done.stderr
    counts = [int(count) for count in (*requests.groups(), *codes.groups())]
    assert counts == [succeed, 0, 0, 0, succeed], done.stdout
