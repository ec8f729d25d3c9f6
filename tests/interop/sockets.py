"""WebSocket clients and servers that other people wrote: Python's `websockets` and Node's `ws`."""

import asyncio
import contextlib
import json
import os
import pathlib
import ssl
import subprocess

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway import DEMO, Gateway, expect, toml
from harness import PATIENCE, free_port, listens, run_steps

POOL = toml(id="eu-west-1_Embedded1", client_id="4hrtn0example0client0id000") + """
[pool.main.embedded]
address = "127.0.0.1:0"
users = [{ username = "demo", password = "Portcullis-1", email = "demo@example.com", groups = ["admin"] }]"""

SCRIPT = pathlib.Path(__file__).parent / "js" / "websocket.js"
LARGE = os.urandom(1 << 20)


def clients_and_servers(story):
    """`websockets` and `ws` as clients and as servers, in the clear and over TLS"""
    node_port = free_port()
    story.start("ws-server", ["node", SCRIPT, "server", node_port], ready=listens(node_port))
    asyncio.run(in_front_of(story, node_port))


async def in_front_of(story, node_port):
    async with serve(echo, "127.0.0.1", 0, select_subprotocol=choose, max_size=None) as server:
        python_port = server.sockets[0].getsockname()[1]
        certificate(story)
        tls_port = free_port()
        more = f"""
[[listener]]
address = "127.0.0.1:{tls_port}"
[listener.tls]
certificates = [{{ chain = "site.pem", key = "site.key" }}]
[upstream.python]
servers = ["http://127.0.0.1:{python_port}"]
[upstream.node]
servers = ["http://127.0.0.1:{node_port}"]
""" + "".join(f"""
[[route]]
path = "/{name}"
upstream = "{name}"
websocket = true
""" for name in ("python", "node"))
        gateway = await asyncio.to_thread(Gateway, story, POOL, more=more)
        login = await asyncio.to_thread(gateway.post, "/auth/login", username=DEMO[0], password=DEMO[1])
        token = expect(login, 200)["access_token"]
        trusted = ssl.create_default_context(cafile=story.folder / "site.pem")
        for base, options in ((f"ws://127.0.0.1:{gateway.port}", {}), (f"wss://localhost:{tls_port}", {"ssl": trusted})):
            for name in ("python", "node"):
                await python_client(story, f"{base}/{name}", token, options)
                command = ["node", SCRIPT, "client", f"{base}/{name}", token, story.folder / "site.pem"]
                await asyncio.to_thread(run_steps, story, [str(part) for part in command], f"ws at {base}/{name}")
        await refusals(story, f"ws://127.0.0.1:{gateway.port}/python", token)


def choose(_, offered):
    """The server alone refuses who offers none of its subprotocols."""
    return "chat" if "chat" in offered else None


async def echo(socket):
    """Says everything back; to `close CODE` with a close frame of its own."""
    with contextlib.suppress(ConnectionClosed):
        async for message in socket:
            if isinstance(message, str) and message.startswith("close "):
                await socket.close(int(message[6:]), "as you said")
                return
            await socket.send(message)


async def python_client(story, url, token, options):
    headers = {"Authorization": f"Bearer {token}"}

    def opened(**more):
        return connect(url, additional_headers=headers, max_size=None, proxy=None, **options, **more)

    with story.step(f"websockets at {url}: text, binary, fragments, 1 MiB and nothing at all"):
        async with opened() as socket:
            for message in ("hello", "grüß dich", b"\x00\xff", "", b"", LARGE, "x" * (1 << 20)):
                await socket.send(message)
                assert await socket.recv() == message
            await socket.send(["in ", "three ", "pieces"])
            assert await socket.recv() == "in three pieces"
            extensions = socket.response.headers.get_all("Sec-WebSocket-Extensions")
            assert any("permessage-deflate" in line for line in extensions), extensions
    with story.step(f"websockets at {url}: without compression, pings, and many at once"):
        async with opened(compression=None) as socket:
            assert "Sec-WebSocket-Extensions" not in socket.response.headers
            for _ in range(3):
                await asyncio.wait_for(await socket.ping(), PATIENCE)
            for number in range(1000):
                await socket.send(str(number))
            assert [await socket.recv() for _ in range(1000)] == [str(number) for number in range(1000)]
    with story.step(f"websockets at {url}: close codes of either end arrive"):
        async with opened() as socket:
            await socket.send("close 4321")
            try:
                raise AssertionError(await socket.recv())
            except ConnectionClosed as closed:
                assert (closed.rcvd.code, closed.rcvd.reason) == (4321, "as you said"), closed
        async with opened() as socket:
            await socket.close(4000, "enough")
            assert socket.close_code == 4000, socket.close_code


async def refusals(story, url, token):
    protocol = f"portcullis.bearer.{token}"
    with story.step("a token as a subprotocol, alone and beside another"):
        async with connect(url, subprotocols=[protocol, "chat"], proxy=None) as socket:
            assert socket.subprotocol == "chat", socket.subprotocol
        async with connect(url, subprotocols=[protocol], origin=url.replace("ws://", "http://").rsplit("/", 1)[0], proxy=None) as socket:
            assert socket.subprotocol == protocol
            await socket.send("hi")
            assert await socket.recv() == "hi"
    with story.step("no token is 401, another origin 403, two tokens 400"):
        await refused(url, 401, "token_missing")
        await refused(url, 403, "origin_denied", subprotocols=[protocol], origin="https://evil.example")
        await refused(
            url, 400, "header_ambiguous", subprotocols=[protocol],
            additional_headers={"Authorization": f"Bearer {token}"},
        )


async def refused(url, status, code, **options):
    try:
        async with connect(url, proxy=None, **options):
            raise AssertionError("it was let in")
    except InvalidStatus as error:
        said = json.loads(error.response.body)
        assert (error.response.status_code, said["code"]) == (status, code), said


def certificate(story):
    """A self-signed one for localhost."""
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "site.key", "-out", "site.pem",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE, cwd=story.folder)
