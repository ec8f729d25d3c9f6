"""Backends that other people wrote, and what becomes of requests when one of them dies."""

import asyncio
import collections
import shutil
import time

import requests

from harness import BINARY, PATIENCE, free_port, listens

CLIENTS = 32
# Requests a second, of all clients together.
RATE = 2000
# When the first server is killed, when it is started again, and when the load ends, in seconds.
KILLED, BACK, END = 3, 7, 20


def killed_and_back(story):
    """One of two nginx servers is killed without a warning under 2,000 requests a second, and comes
    back: how many requests fail, and does it get its share again?"""
    nginx = shutil.which("nginx")
    if nginx is None:
        story.cannot("nginx servers", "nginx is not installed")
        return
    servers = [Nginx(story, nginx, name) for name in ("one", "two")]
    for health in ("", '[upstream.app.health]\npath = "/health"\nevery = "500ms"\ntimeout = "400ms"\n'):
        kind = "with probes" if health else "without probes"
        port, admin = gateway(story, servers, health)
        loads = asyncio.run(under_load(port, servers))
        with story.step(f"{kind}: GET fails {loads['GET'].told()}, POST {loads['POST'].told()}"):
            # A GET is sent again to the other server. A POST is so only if nothing of it was sent.
            assert loads["GET"].failed == 0, loads["GET"].failures
            assert loads["POST"].failed <= CLIENTS, loads["POST"].failures
        late = loads["GET"].late + loads["POST"].late
        with story.step(f"{kind}: in the last two seconds the servers share {dict(sorted(late.items()))}"):
            assert set(late) == {"one", "two"}, late
            assert min(late.values()) > sum(late.values()) * 0.3, late
        with story.step(f"{kind}: the operator sees two servers in use"):
            seen = requests.get(f"http://127.0.0.1:{admin}/upstreams", timeout=PATIENCE).json()
            assert [server["healthy"] for server in seen["app"]["servers"]] == [True, True], seen


class Nginx:
    """One process, which `kill -9` ends with all of its connections."""

    def __init__(self, story, binary, name):
        self.story, self.binary, self.name, self.port, self.starts = story, binary, name, free_port(), 0
        self.config = story.folder / f"{name}.conf"
        self.config.write_text(f"""
daemon off; master_process off; pid {story.folder}/{name}.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000;
  client_body_temp_path {story.folder}/{name}.body; proxy_temp_path {story.folder}/{name}.proxy;
  fastcgi_temp_path {story.folder}/{name}.f; uwsgi_temp_path {story.folder}/{name}.u; scgi_temp_path {story.folder}/{name}.s;
  server {{ listen 127.0.0.1:{self.port}; location / {{ return 200 "{name}"; }} }}
}}
""")
        self.start()

    def start(self):
        self.starts += 1
        log = f"nginx-{self.name}-{self.starts}"
        command = [self.binary, "-p", self.story.folder, "-c", self.config]
        self.process = self.story.start(log, command, ready=listens(self.port))


def gateway(story, servers, health):
    """Starts a gateway in front of the servers: its port, and the operator's."""
    port, admin = free_port(), free_port()
    name = "gateway-probes" if health else "gateway"
    config = story.folder / f"{name}.toml"
    urls = ", ".join(f'"http://127.0.0.1:{server.port}"' for server in servers)
    config.write_text(f"""
version = 1
[server]
workers = 2
[[listener]]
address = "127.0.0.1:{port}"
[admin]
address = "127.0.0.1:{admin}"
[log]
access = false
[upstream.app]
servers = [{urls}]
{health}
[[route]]
path = "/*"
upstream = "app"
access = "public"
""")
    story.start(name, [BINARY, "run", "--config", config], ready=listens(port))
    return port, admin


class Load:
    """What came of the requests of one method."""

    def __init__(self):
        self.sent = self.failed = 0
        self.failures, self.late = collections.Counter(), collections.Counter()

    def told(self):
        return f"{self.failed} of {self.sent}"

    def note(self, outcome, is_late):
        self.sent += 1
        if outcome in ("one", "two"):
            if is_late:
                self.late[outcome] += 1
        else:
            self.failed += 1
            self.failures[outcome] += 1


async def under_load(port, servers):
    loads = {"GET": Load(), "POST": Load()}
    began = time.monotonic()
    clients = [asyncio.create_task(client(port, began, number, loads)) for number in range(CLIENTS)]
    await asyncio.sleep(KILLED)
    servers[0].process.kill()
    servers[0].process.wait()
    await asyncio.sleep(began + BACK - time.monotonic())
    servers[0].start()
    await asyncio.gather(*clients)
    return loads


async def client(port, began, number, loads):
    """Sends its part of the requests on one connection, every tenth as a POST."""
    stream, turn = None, 0
    while (now := time.monotonic() - began) < END:
        due = (turn * CLIENTS + number) / RATE
        if due > now:
            await asyncio.sleep(due - now)
        method = "POST" if turn % 10 == 9 else "GET"
        turn += 1
        try:
            if stream is None:
                stream = await asyncio.open_connection("127.0.0.1", port)
            outcome = await asyncio.wait_for(exchange(stream, method), 10)
        except (OSError, EOFError, TimeoutError) as error:
            stream, outcome = None, type(error).__name__
        loads[method].note(outcome, now > END - 2)


async def exchange(stream, method):
    """The body of a 200, or the status line of anything else."""
    reader, writer = stream
    writer.write(f"{method} / HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:")[1].split()[0])
    body = (await reader.readexactly(length)).decode()
    return body if head.startswith("http/1.1 200 ") else body[-120:]
