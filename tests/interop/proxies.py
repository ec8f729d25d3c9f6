"""nginx and HAProxy in front of the gateway, and behind it."""

import hashlib
import http.client
import json
import shutil

from gateway import DEMO, Gateway
from harness import BINARY, PATIENCE, free_port, listens

POOL = """
id = "eu-west-1_Embedded1"
client_id = "4hrtn0example0client0id000"
[pool.main.embedded]
address = "127.0.0.1:0"
users = [{ username = "demo", password = "Portcullis-1", email = "demo@example.com", groups = ["admin"] }]
[server]
trusted_proxies = ["127.0.0.1"]
"""
# Where the clients of these suites sit: no address of a trusted proxy.
CLIENT = "127.0.0.5"
# More than any buffer on the way.
LARGE = 32 << 20


def nginx_before(story):
    """nginx in front: the gateway learns of the client what nginx says, and nothing else."""
    program = shutil.which("nginx")
    if program is None:
        return story.cannot("nginx in front", "nginx is not installed")
    gateway, port = Gateway(story, POOL), free_port()
    serve_nginx(story, program, f"""
      upstream gateway {{ server 127.0.0.1:{gateway.port}; keepalive 16; }}
      server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        proxy_request_buffering off;
        location / {{
          proxy_pass http://gateway;
          proxy_http_version 1.1;
          proxy_set_header Connection "";
          proxy_set_header Host $http_host;
          proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
          proxy_set_header X-Forwarded-Proto https;
        }}
      }}
    """)
    walk_before(story, gateway, port)


def haproxy_before(story):
    """HAProxy in front: the gateway learns of the client what HAProxy says, and nothing else."""
    program = shutil.which("haproxy")
    if program is None:
        return story.cannot("HAProxy in front", "HAProxy is not installed")
    gateway, port = Gateway(story, POOL), free_port()
    serve_haproxy(story, program, f"""
frontend in
    bind 127.0.0.1:{port}
    option forwardfor
    http-request set-header X-Forwarded-Proto https
    default_backend gateway
backend gateway
    http-reuse always
    option httpchk GET /public/probe
    http-check send hdr Host gateway.example
    server gateway 127.0.0.1:{gateway.port} check inter 200ms
""")
    walk_before(story, gateway, port)


def walk_before(story, gateway, port):
    """What must hold with either of them in front."""
    with story.step("the identity routes are reached through it"):
        username, password = DEMO
        reply = ask(port, "POST", "/auth/login", json.dumps({"username": username, "password": password}).encode(),
                    {"Content-Type": "application/json"})
        assert reply.status == 200, reply.body
        token = json.loads(reply.body)["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    with story.step("without a token it is 401, with its challenge"):
        reply = ask(port, "GET", "/hello")
        assert reply.status == 401 and reply.headers["www-authenticate"].startswith("Bearer"), vars(reply)
    with story.step("the client's address is the one that the proxy saw, whatever the client claims"):
        seen = whoami(ask(port, "GET", "/hello?a=1", headers={**bearer, "X-Forwarded-For": "203.0.113.9"}))
        assert seen["x-real-ip"] == CLIENT, seen
        assert seen["x-forwarded-for"] == f"203.0.113.9, {CLIENT}, 127.0.0.1", seen
        assert seen["x-forwarded-proto"] == "https", seen
    with story.step("a client past the proxy is not believed"):
        seen = whoami(ask(gateway.port, "GET", "/hello", headers={**bearer, "X-Forwarded-For": "203.0.113.9"}))
        assert seen["x-real-ip"] == CLIENT and seen["x-forwarded-for"] == CLIENT, seen
    with story.step("HEAD, 404 and an empty POST keep the connections in step"):
        for method, path, status in (("HEAD", "/hello", 200), ("POST", "/hello", 200), ("GET", "/hello", 200)) * 20:
            reply = ask(port, method, path, b"" if method == "POST" else None, bearer)
            assert reply.status == status and (method != "HEAD" or not reply.body), vars(reply)
    with story.step(f"an upload of {LARGE >> 20} MiB arrives whole, with a length and in chunks"):
        for body in (bytes(LARGE), (bytes(1 << 16) for _ in range(LARGE >> 16))):
            reply = ask(port, "PUT", "/hello", body, bearer)
            assert reply.status == 200 and json.loads(reply.body)["body_length"] == LARGE, reply.body[:500]


def nginx_behind(story):
    """nginx behind: files both ways, ranges, its own errors and redirects."""
    program = shutil.which("nginx")
    if program is None:
        return story.cannot("nginx behind", "nginx is not installed")
    port, files = free_port(), story.folder / "files"
    files.mkdir(mode=0o777)
    files.chmod(0o777)
    story.folder.chmod(0o755)
    serve_nginx(story, program, f"""
      server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        keepalive_requests 7;
        absolute_redirect off;
        location / {{ root {files}; dav_methods PUT DELETE; }}
        location /moved {{ return 301 /elsewhere; }}
        location /quits {{ return 444; }}
        location /nothing {{ return 204; }}
      }}
    """)
    walk_behind(story, port, files, limited=True)


def haproxy_behind(story):
    """HAProxy behind, with nginx behind that: the same, over another server's framing."""
    nginx, program = shutil.which("nginx"), shutil.which("haproxy")
    if nginx is None or program is None:
        return story.cannot("HAProxy behind", "HAProxy or nginx is not installed")
    files, inner, port = story.folder / "files", free_port(), free_port()
    files.mkdir()
    files.chmod(0o777)
    story.folder.chmod(0o755)
    serve_nginx(story, nginx, f"""
      server {{
        listen 127.0.0.1:{inner};
        client_max_body_size 0;
        absolute_redirect off;
        location / {{ root {files}; dav_methods PUT DELETE; }}
        location /moved {{ return 301 /elsewhere; }}
        location /nothing {{ return 204; }}
      }}
    """)
    serve_haproxy(story, program, f"""
frontend in
    bind 127.0.0.1:{port}
    default_backend files
backend files
    http-reuse always
    server files 127.0.0.1:{inner}
""")
    walk_behind(story, port, files, limited=False)


def walk_behind(story, server, files, limited):
    """What must hold with either of them behind."""
    port = free_port()
    config = story.folder / "before.toml"
    config.write_text(f"""
version = 1
[[listener]]
address = "127.0.0.1:{port}"
[admin]
address = "127.0.0.1:{free_port()}"
[upstream.files]
servers = ["http://127.0.0.1:{server}"]
host = "server"
[[route]]
path = "/*"
upstream = "files"
access = "public"
""")
    story.start("before", [BINARY, "run", "--config", config], ready=listens(port))
    content = bytes(range(256)) * (LARGE // 256)
    with story.step(f"a file of {LARGE >> 20} MiB goes there, with a length and in chunks, and comes back the same"):
        pieces = (content[at:at + 100_000] for at in range(0, LARGE, 100_000))
        for name, body in (("/a", content), ("/b", pieces)):
            assert ask(port, "PUT", name, body).status == 201
            reply = ask(port, "GET", name)
            assert hashlib.sha256(reply.body).digest() == hashlib.sha256(content).digest(), len(reply.body)
            assert (files / name[1:]).stat().st_size == LARGE
    with story.step("ranges, conditions and HEAD are the server's to answer"):
        reply = ask(port, "GET", "/a", headers={"Range": "bytes=256-511"})
        assert reply.status == 206 and reply.body == bytes(range(256)), vars(reply)
        tag = reply.headers["etag"]
        assert ask(port, "GET", "/a", headers={"If-None-Match": tag}).status == 304
        reply = ask(port, "HEAD", "/a")
        assert (reply.status, reply.headers["content-length"], reply.body) == (200, str(LARGE), b""), vars(reply)
    with story.step("redirects, errors and 204 pass through, also when the server closes after a few requests"):
        for _ in range(10):
            reply = ask(port, "GET", "/moved")
            assert (reply.status, reply.headers["location"]) == (301, "/elsewhere"), vars(reply)
            assert ask(port, "GET", "/missing").status == 404
            assert ask(port, "GET", "/nothing").status == 204
            assert ask(port, "DELETE", "/missing").status == 404
    if limited:
        with story.step("a server that hangs up without an answer is a 502 problem"):
            reply = ask(port, "GET", "/quits")
            assert reply.status == 502 and json.loads(reply.body)["code"] == "upstream_unreachable", vars(reply)


class Reply:
    """An answer, read to its end."""

    def __init__(self, response):
        self.status, self.body = response.status, response.read()
        self.headers = {name.lower(): value for name, value in response.getheaders()}


def ask(port, method, path, body=None, headers=None):
    """One request from the client's own address; a body that is no bytes goes in chunks."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE, source_address=(CLIENT, 0))
    try:
        chunked = body is not None and not isinstance(body, bytes)
        connection.request(method, path, body, headers or {}, encode_chunked=chunked)
        return Reply(connection.getresponse())
    finally:
        connection.close()


def whoami(reply):
    """The headers that reached the upstream, names in lower case."""
    assert reply.status == 200, vars(reply)
    return {name.lower(): value for name, value in json.loads(reply.body)["headers"].items()}


def serve_nginx(story, program, servers):
    folder = story.folder
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    config = folder / "nginx.conf"
    # One process without a master: it keeps the rights that the story has over its folder.
    config.write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr; events {{}} "
        f"http {{ access_log off; {temporary} {servers} }}"
    )
    story.start("nginx", [program, "-p", folder, "-e", "stderr", "-c", config],
                ready=listens(first_port(servers, "listen 127.0.0.1:")))


def serve_haproxy(story, program, sections):
    config = story.folder / "haproxy.cfg"
    config.write_text(f"""
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 3s
{sections}
""")
    story.start("haproxy", [program, "-db", "-f", config], ready=listens(first_port(sections, "bind 127.0.0.1:")))


def first_port(text, before):
    return int(text.split(before)[1].split()[0].rstrip(";"))
