"""The gateway's signed assertion at an upstream that checks it with PyJWT, the way its documents say."""

import base64
import hashlib
import http.server
import json
import subprocess
import threading

import jwt
import requests

from gateway import DEMO, Gateway, expect, toml
from harness import BINARY, PATIENCE, free_port

HEADER = "X-Portcullis-Assertion"


def pyjwt(story):
    """PyJWT checks the gateway's assertions against its published key set"""
    made = subprocess.run([BINARY, "keygen", "--assertion"], capture_output=True, text=True, timeout=PATIENCE, check=True)
    (story.folder / "assertion.key").write_text(made.stdout)
    port = free_port()
    pool = toml(id="eu-west-1_Embedded1", client_id="4hrtn0example0client0id000") + f"""
[pool.main.embedded]
address = "127.0.0.1:0"
users = [{{ username = "demo", password = "Portcullis-1", email = "demo@example.com", groups = ["admin"] }}]
[assertion]
issuer = "gateway.example"
keys = [{{ file = "assertion.key" }}]
[upstream.checking]
servers = ["http://127.0.0.1:{port}"]
[upstream.checking.assertion]
audience = "orders"
ttl = "30s"
[[route]]
path = "/orders/*"
upstream = "checking"
access = "optional"
"""
    gateway = Gateway(story, pool)
    keys = jwt.PyJWKClient(f"http://127.0.0.1:{gateway.port}/auth/.well-known/jwks.json")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), checking(keys))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        steps(story, gateway, f"http://127.0.0.1:{port}")
    finally:
        server.shutdown()
        server.server_close()


def steps(story, gateway, upstream):
    """What passes through the gateway is believed, what goes past it is not."""
    token = expect(gateway.post("/auth/login", username=DEMO[0], password=DEMO[1]), 200)["access_token"]

    with story.step("signature, issuer, audience, times, method and path hold, and the caller is who signed in"):
        said = expect(gateway.get("/orders/7%C3%B6?a=b", token), 200)
        assert said["username"] == "demo" and said["groups"] == ["admin"], said
        assert said["sub"] == jwt.decode(token, options={"verify_signature": False})["sub"], said
        assert said["exp"] - said["iat"] == 30, said

    with story.step("an anonymous caller has an assertion without a subject"):
        said = expect(gateway.get("/orders/8"), 200)
        assert "sub" not in said and said["method"] == "GET", said

    with story.step("an assertion that a client sends is not passed on"):
        said = expect(gateway.get("/orders/9", token, **{HEADER: "e30.e30.AA", "X_Portcullis_Assertion": "e30.e30.AA"}), 200)
        assert said["username"] == "demo", said

    assertion = gateway.get("/orders/7", token).headers["X-Seen-Assertion"]
    with story.step("past the gateway: nothing, another's signature, another path and another method are refused"):
        assert ask(upstream, "/orders/7") == (401, "there is no assertion")
        assert ask(upstream, "/orders/7", assertion) == (200, None), "it is good where it belongs"
        head, payload, signature = assertion.split(".")
        flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
        assert ask(upstream, "/orders/7", ".".join([head, payload, flipped]))[0] == 401
        none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
        assert ask(upstream, "/orders/7", ".".join([none, payload, ""]))[0] == 401
        assert ask(upstream, "/orders/8", assertion) == (401, "it is for another path")
        assert ask(upstream, "/orders/7", assertion, method="DELETE") == (401, "it is for another method")

    with story.step("explain says what would be signed"):
        config = story.folder / "gateway.toml"
        told = subprocess.run(
            [BINARY, "explain", "GET", "/orders/7", "--config", config], capture_output=True, text=True, timeout=PATIENCE
        )
        assert "x-portcullis-assertion: signed for audience orders by gateway.example" in told.stdout, told


def ask(upstream, path, assertion=None, method="GET"):
    """A request straight to the upstream: the status, and why."""
    session = requests.Session()
    session.trust_env = False
    headers = {} if assertion is None else {HEADER: assertion}
    response = session.request(method, upstream + path, headers=headers, timeout=PATIENCE)
    return response.status_code, response.json().get("why")


def checking(keys):
    """An upstream that answers with the claims of a good assertion, and with 401 without one."""

    class Upstream(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def check(self):
            assertion = self.headers.get_all(HEADER) or []
            if len(assertion) != 1:
                raise jwt.InvalidTokenError("there is no assertion")
            claims = jwt.decode(
                assertion[0],
                keys.get_signing_key_from_jwt(assertion[0]).key,
                algorithms=["ES256"],
                audience="orders",
                issuer="gateway.example",
                options={"require": ["iss", "aud", "iat", "exp", "jti"]},
            )
            path = self.path.split("?")[0].encode()
            digest = base64.urlsafe_b64encode(hashlib.sha256(path).digest()).rstrip(b"=").decode()
            if claims["path_sha256"] != digest:
                raise jwt.InvalidTokenError("it is for another path")
            if claims["method"] != self.command:
                raise jwt.InvalidTokenError("it is for another method")
            return claims

        def answer(self):
            try:
                status, body = 200, self.check()
            except jwt.PyJWTError as error:
                status, body = 401, {"why": str(error)}
            body = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Seen-Assertion", self.headers.get(HEADER, ""))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_DELETE = answer

        def log_message(self, *_):
            pass

    return Upstream
