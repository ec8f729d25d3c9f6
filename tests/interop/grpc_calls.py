"""gRPC's own client and server (grpcio), with the gateway between them."""

import concurrent.futures
import threading

import grpc

from gateway import DEMO, Gateway, expect, toml
from harness import PATIENCE, free_port

POOL = toml(id="eu-west-1_Embedded1", client_id="4hrtn0example0client0id000") + """
[pool.main.embedded]
address = "127.0.0.1:0"
users = [{ username = "demo", password = "Portcullis-1", email = "demo@example.com", groups = ["admin"] }]"""


def client_and_server(story):
    """grpcio at both ends, over HTTP/2 without TLS"""
    talk = Talk()
    gateway = Gateway(story, POOL, listener="h2c = true", more=f"""
[upstream.talk]
servers = ["http://127.0.0.1:{talk.port}"]
protocol = "h2"
[[route]]
path = "/interop.Talk/*"
upstream = "talk"
[[route]]
path = "/interop.Talk/Stall"
upstream = "talk"
timeout = "700ms"
[[route]]
path = "/interop.Nobody/*"
upstream = "talk"
access = {{ groups = ["nobody"] }}
""")
    token = expect(gateway.post("/auth/login", username=DEMO[0], password=DEMO[1]), 200)["access_token"]
    try:
        with grpc.insecure_channel(f"127.0.0.1:{gateway.port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            calls(story, talk, channel, [("authorization", f"Bearer {token}")])
            with story.step("a server that is gone is UNAVAILABLE, and one that is back is found again"):
                talk.stop()
                assert_fails(grpc.StatusCode.UNAVAILABLE, lambda: unary(channel, "Echo")(b"m", metadata=auth(token)))
                talk.start()
                reply = unary(channel, "Echo")(b"m", metadata=auth(token), timeout=PATIENCE)
                assert reply == b"m", reply
    finally:
        talk.stop()


def calls(story, talk, channel, authorized):
    """Everything that goes while the server is there."""
    with story.step("unary: the message, the caller's identity, and metadata in both directions"):
        sent = [*authorized, ("x-asked", "1"), ("x-auth-username", "root"), ("x-bytes-bin", b"\0\xff")]
        reply, call = unary(channel, "Echo").with_call(b"hello", metadata=sent, timeout=PATIENCE)
        assert reply == b"hello", reply
        assert ("x-answered", "2") in call.initial_metadata(), call.initial_metadata()
        assert ("x-at-the-end", "3") in call.trailing_metadata(), call.trailing_metadata()
        seen = talk.seen[-1]
        assert seen["x-asked"] == "1" and seen["x-bytes-bin"] == b"\0\xff", seen
        assert seen["x-auth-username"] == "demo" and "authorization" not in seen, seen

    with story.step("refusals: UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED, each with a message"):
        error = assert_fails(grpc.StatusCode.UNAUTHENTICATED, lambda: unary(channel, "Echo")(b"m"))
        assert error.details() == "A token is required", error.details()
        bad = [("authorization", "Bearer nonsense")]
        assert_fails(grpc.StatusCode.UNAUTHENTICATED, lambda: unary(channel, "Echo")(b"m", metadata=bad))
        other = channel.unary_unary("/interop.Nobody/Echo")
        assert_fails(grpc.StatusCode.PERMISSION_DENIED, lambda: other(b"m", metadata=authorized))
        strange = channel.unary_unary("/interop.Talk//Echo")
        assert_fails(grpc.StatusCode.INTERNAL, lambda: strange(b"m", metadata=authorized))
        unknown = channel.unary_unary("/interop.Talk/Unknown")
        assert_fails(grpc.StatusCode.UNIMPLEMENTED, lambda: unknown(b"m", metadata=authorized))

    with story.step("the server's own failure: status, message and trailers as they are"):
        error = assert_fails(grpc.StatusCode.NOT_FOUND, lambda: unary(channel, "Fail")(b"m", metadata=authorized))
        assert error.details() == "100 % gone: ü", error.details()
        assert ("x-at-the-end", "3") in error.trailing_metadata(), error.trailing_metadata()

    with story.step("a stream from the server, one from the client, and both, in step and not"):
        many = channel.unary_stream("/interop.Talk/Count")(b"500", metadata=authorized, timeout=PATIENCE)
        assert [int(reply) for reply in many] == list(range(500))
        total = channel.stream_unary("/interop.Talk/Sum")
        assert total((b"x" * 1000 for _ in range(500)), metadata=authorized, timeout=PATIENCE) == b"500000"
        both = channel.stream_stream("/interop.Talk/Both")
        messages = [b"%d" % number for number in range(500)]
        assert list(both(iter(messages), metadata=authorized, timeout=PATIENCE)) == messages
        in_step(both, authorized)

    with story.step("messages of 3 MB in both directions"):
        large = bytes(range(256)) * 12_000
        assert unary(channel, "Echo")(large, metadata=authorized, timeout=PATIENCE) == large

    with story.step("300 calls at once"):
        futures = [unary(channel, "Echo").future(b"%d" % n, metadata=authorized, timeout=PATIENCE) for n in range(300)]
        assert [future.result() for future in futures] == [b"%d" % n for n in range(300)]

    with story.step("the client's deadline: DEADLINE_EXCEEDED, and the server knew it and is told"):
        wait = unary(channel, "Wait")
        assert_fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: wait(b"m", metadata=authorized, timeout=0.5))
        assert talk.remaining[-1] is not None and talk.remaining[-1] < 1, talk.remaining
        assert talk.left.wait(PATIENCE), "the server was not told"

    with story.step("a client that cancels: the server is told"):
        talk.left.clear()
        talk.waits.clear()
        future = wait.future(b"m", metadata=authorized)
        assert talk.waits.wait(PATIENCE)
        future.cancel()
        assert talk.left.wait(PATIENCE), "the server was not told"

    with story.step("`timeout` of a route: DEADLINE_EXCEEDED, before the answer and in the middle of it"):
        stall = channel.unary_stream("/interop.Talk/Stall")
        assert_fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(stall(b"0", metadata=authorized)))
        replies = stall(b"2", metadata=authorized)
        assert [next(replies), next(replies)] == [b"0", b"1"]
        assert_fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: next(replies))


def in_step(both, metadata):
    """A conversation in which each side waits for the other."""
    turn = threading.Semaphore(0)

    def ask():
        for number in range(50):
            yield b"%d" % number
            assert turn.acquire(timeout=PATIENCE)

    for number, reply in enumerate(both(ask(), metadata=metadata, timeout=PATIENCE)):
        assert reply == b"%d" % number, (number, reply)
        turn.release()
    assert number == 49, number


def auth(token):
    return [("authorization", f"Bearer {token}")]


def unary(channel, method):
    return channel.unary_unary(f"/interop.Talk/{method}")


def assert_fails(status, call):
    """The error of a call that has to fail with this status."""
    try:
        reply = call()
    except grpc.RpcError as error:
        assert error.code() == status, f"{error.code()} ({error.details()}), not {status}"
        return error
    raise AssertionError(f"{reply!r}, not {status}")


class Talk:
    """The server: messages are bytes, so that nothing has to be generated."""

    def __init__(self):
        self.port = free_port()
        self.seen, self.remaining = [], []
        self.waits, self.left = threading.Event(), threading.Event()
        self.start()

    def start(self):
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=32))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("interop.Talk", {
            "Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "Wait": grpc.unary_unary_rpc_method_handler(self._wait),
            "Count": grpc.unary_stream_rpc_method_handler(lambda m, _: (b"%d" % n for n in range(int(m)))),
            "Stall": grpc.unary_stream_rpc_method_handler(self._stall),
            "Sum": grpc.stream_unary_rpc_method_handler(lambda all, _: b"%d" % sum(len(one) for one in all)),
            "Both": grpc.stream_stream_rpc_method_handler(lambda all, _: all),
        }),))
        assert self._server.add_insecure_port(f"127.0.0.1:{self.port}") == self.port
        self._server.start()

    def stop(self):
        self._server.stop(grace=None).wait(PATIENCE)

    def _echo(self, message, context):
        self.seen.append(dict(context.invocation_metadata()))
        context.send_initial_metadata([("x-answered", "2")])
        context.set_trailing_metadata([("x-at-the-end", "3")])
        return message

    def _fail(self, _message, context):
        context.set_trailing_metadata([("x-at-the-end", "3")])
        context.abort(grpc.StatusCode.NOT_FOUND, "100 % gone: ü")

    def _wait(self, _message, context):
        self.remaining.append(context.time_remaining())
        self.waits.set()
        done = threading.Event()
        context.add_callback(done.set)
        done.wait(PATIENCE)
        self.left.set()
        return b""

    def _stall(self, message, context):
        yield from (b"%d" % number for number in range(int(message)))
        done = threading.Event()
        context.add_callback(done.set)
        done.wait(PATIENCE)
