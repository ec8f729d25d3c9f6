"""Bodies of 1 GiB in both directions, and what they cost in memory."""

import concurrent.futures
import pathlib
import socket
import threading
import time

import grpc

from gateway import Gateway
from harness import PATIENCE
from http2 import POOL

SIZE = 1 << 30
PIECE = bytes(1 << 20)
# What may be on its way through the gateway at once: buffers of both sockets, and of HTTP/2 a window.
MOST = 48 << 20


def bodies(story):
    """1 GiB up and down over HTTP/1.1 and through HTTP/2, in bounded memory"""
    server, streams = Server(), Streams()
    gateway = Gateway(story, POOL, listener="h2c = true", more=f"""
[upstream.large]
servers = ["http://127.0.0.1:{server.port}"]
[[route]]
path = "/large/*"
upstream = "large"
access = "public"
[upstream.streams]
servers = ["http://127.0.0.1:{streams.port}"]
protocol = "h2"
[[route]]
path = "/interop.Large/*"
upstream = "streams"
access = "public"
""")
    try:
        # Forgets what starting took (proc(5)).
        pathlib.Path(f"/proc/{gateway.process.pid}/clear_refs").write_text("5")
        before = peak(gateway)

        with story.step("HTTP/1.1: 1 GiB up"):
            with client(gateway) as sent:
                sent.sendall(b"PUT /large/up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % SIZE)
                for _ in range(SIZE // len(PIECE)):
                    sent.sendall(PIECE)
                assert read(sent).endswith(b"\r\n\r\n%d" % SIZE)

        with story.step("HTTP/1.1: 1 GiB down"):
            with client(gateway) as asked:
                asked.sendall(b"GET /large/down HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                assert drain(asked) > SIZE

        with story.step("HTTP/2: 1 GiB up and down"):
            with grpc.insecure_channel(f"127.0.0.1:{gateway.port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
                up = channel.stream_unary("/interop.Large/Up")
                pieces = SIZE // len(PIECE)
                assert up(PIECE for _ in range(pieces)) == b"%d" % SIZE
                down = channel.unary_stream("/interop.Large/Down")(b"%d" % pieces)
                assert sum(len(piece) for piece in down) == SIZE

        with story.step("a client that does not read: the server is held back"):
            server.sent = 0
            with client(gateway) as asked:
                asked.sendall(b"GET /large/down HTTP/1.1\r\nHost: a\r\n\r\n")
                held = settled(lambda: server.sent)
                assert 0 < held < MOST, f"{held} bytes were taken"

        with story.step(f"none of that took {MOST >> 20} MiB"):
            grown = peak(gateway) - before
            assert grown < MOST, f"{grown >> 20} MiB"
            print(f"         it took {grown >> 20} MiB")
    finally:
        server.stop()
        streams.stop()


def client(gateway):
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE)


def peak(gateway):
    """The most memory that the gateway had, in bytes."""
    status = pathlib.Path(f"/proc/{gateway.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def read(peer):
    """The head of a message, and what came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = peer.recv(65536)
        assert more, data
        data += more
    return data


def drain(peer):
    """Reads to the end; how much that was."""
    room, total = bytearray(1 << 20), 0
    while count := peer.recv_into(room):
        total += count
    return total


def settled(count):
    """What a count comes to that nothing adds to any more."""
    deadline, last = time.monotonic() + PATIENCE, None
    while (now := count()) != last or now == 0:
        assert time.monotonic() < deadline, now
        last = now
        time.sleep(0.5)
    return last


class Server:
    """An upstream of HTTP/1.1, one request for each connection."""

    def __init__(self):
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer):
        with peer:
            head, _, rest = read(peer).partition(b"\r\n\r\n")
            if head.startswith(b"PUT"):
                left, room = SIZE - len(rest), bytearray(1 << 20)
                while left and (count := peer.recv_into(room, min(left, len(room)))):
                    left -= count
                text = b"%d" % (SIZE - left)
                peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
                return
            try:
                peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % SIZE)
                left = SIZE
                while left:
                    count = peer.send(PIECE[:left])
                    left -= count
                    self.sent += count
            except OSError:
                # The client that does not read has left.
                return


class Streams:
    """An upstream of HTTP/2."""

    def __init__(self):
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=4))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("interop.Large", {
            "Up": grpc.stream_unary_rpc_method_handler(lambda all, _: b"%d" % sum(len(one) for one in all)),
            "Down": grpc.unary_stream_rpc_method_handler(lambda count, _: (PIECE for _ in range(int(count)))),
        }),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self):
        self._server.stop(grace=None).wait(PATIENCE)
