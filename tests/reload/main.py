"""Reloads under load, and what they cost: see tests/reload/run.

wrk asks through the gateway as fast as it can, with a token; a client reads an endless answer, another
one endless server-sent events, a numbered line every 50 ms, one sends an endless body, and one
talks with an echo over a WebSocket. Meanwhile the file changes again
and again: routes, an upstream's settings, the pool's settings, limits, a second listener; every
third file is a bad one. Then everything is counted.
"""

import argparse
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import upstream

DEMO = json.dumps({"username": "demo", "password": "Portcullis-1"})
PATIENCE = 20


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--folder", type=Path, required=True)
    arguments.add_argument("--reloads", type=int, default=200)
    arguments = arguments.parse_args()
    # `timeout` and Ctrl-C end what was started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    run = Run(arguments.folder)
    try:
        return 0 if run.all(arguments.reloads) else 1
    finally:
        run.end()


class Run:
    def __init__(self, folder):
        self.config = folder / "portcullis.toml"
        self.log = folder / "log"
        self.port, self.extra_port, self.admin_port, pool_port = (free_port() for _ in range(4))
        self.upstream = upstream.start()
        self.pool_port = pool_port
        self.started = []
        # A port that is taken, for files that cannot be put in force.
        self.taken = socket.create_server(("127.0.0.1", 0))

    def all(self, reloads):
        """Runs everything; prints the figures; True when nothing went wrong."""
        self.write(self.good(0))
        with open(self.log, "w") as log:
            gateway = self.start([os.environ["PORTCULLIS_BIN"], "run", "--config", self.config], stdout=log, stderr=log)
        wait_until("the gateway is ready", lambda: self.admin("GET", "/ready")[0] == 200)
        token = json.loads(self.ask("POST", "/auth/login", DEMO, {"Content-Type": "application/json"})[1])["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}

        streams = [kind(self.port, bearer) for kind in (Stream, Events, Upload, Socket)]
        wrk = self.start(
            ["wrk", "-t1", "-c16", "-d1h", "-H", f"Authorization: Bearer {token}", f"http://127.0.0.1:{self.port}/app/x"],
            stdout=subprocess.PIPE, text=True,
        )
        for stream in streams:
            wait_until("a stream flows", lambda stream=stream: stream.count > 0)

        done, warm = {"good": 0, "bad": 0}, max(reloads // 4, 10)
        took, began, before = [], time.monotonic(), None
        for number in range(1, reloads + 1):
            kind = "bad" if number % 3 == 0 else "good"
            took.append(self.reload(number, kind))
            done[kind] += 1
            if number == warm:
                before = used(gateway.pid)
        seconds = time.monotonic() - began
        after = used(gateway.pid)
        self.by_itself(reloads + 1)

        wrk.send_signal(signal.SIGINT)
        report = wrk.communicate(timeout=PATIENCE)[0]
        lines = [stream.finish() for stream in streams]
        status, ready = self.admin("GET", "/ready")
        requests = int(re.search(r"(\d+) requests in", report)[1])
        failed = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", report))
        for kinds in re.findall(r"Socket errors: (.*)", report):
            failed += sum(int(n) for n in re.findall(r"\d+", kinds))
        broken = [stream.broken for stream in streams if stream.broken]
        took.sort()

        print(f"reloads     {done['good']} good, {done['bad']} bad, in {seconds:.1f} s; "
              f"median {took[len(took) // 2] * 1000:.0f} ms, longest {took[-1] * 1000:.0f} ms")
        print(f"requests    {requests}, {failed} failed")
        print(f"streams     {len(streams)}, {len(broken)} broken; {lines} pieces")
        print(f"memory      {before['kb']} KiB after {warm} reloads, {after['kb']} KiB after {reloads}")
        print(f"descriptors {before['descriptors']}, then {after['descriptors']}; "
              f"threads {before['threads']}, then {after['threads']}")
        return all([
            expect("no request failed", failed == 0 and requests > 100, report),
            expect("no stream broke", not broken and min(lines) > 10, broken),
            expect("memory is flat", after["kb"] < before["kb"] * 1.1 + 2048, (before, after)),
            # Blocking threads come and go; a listener of the last file may be open or not.
            expect("no descriptor is left", after["descriptors"] <= before["descriptors"] + 8, (before, after)),
            expect("it is ready, and the last file was good", status == 200 and b'"reason"' not in ready, ready),
            expect("it still runs", gateway.poll() is None, self.log.read_text()[-2000:]),
        ])

    def reload(self, number, kind):
        """Writes the next file and reloads it by request or by signal; the seconds that it took."""
        self.write(self.good(number) if kind == "good" else self.bad(number))
        generation = self.generation()
        began = time.monotonic()
        if number % 5 == 0 and kind == "good":
            self.started[0].send_signal(signal.SIGHUP)
            wait_until("the reload by signal", lambda: self.generation() > generation)
            return time.monotonic() - began
        status, body = self.admin("POST", "/reload")
        took = time.monotonic() - began
        expected = (200, generation + 1) if kind == "good" else (422, generation)
        if (status, self.generation()) != expected:
            raise AssertionError(f"reload {number} ({kind}): {status} {body}")
        if kind == "good" and number % 2 == 1:
            # The second listener is there, and so is what else this file says.
            reply, _ = self.ask("GET", f"/only/{number}", port=self.extra_port)
            assert reply == 200, f"reload {number} on the second listener: {reply}"
        return took

    def by_itself(self, number):
        """A file that nobody announces."""
        generation = self.generation()
        self.write(self.good(number))
        wait_until("the reload by content", lambda: self.generation() > generation)

    def good(self, number):
        listeners = [self.port] + ([self.extra_port] if number % 2 == 1 else [])
        listeners = "".join(f'[[listener]]\naddress = "127.0.0.1:{port}"\n' for port in listeners)
        return f"""version = 1
[server]
workers = 2
[server.limits]
headers = {50 + number % 7}
[admin]
address = "127.0.0.1:{self.admin_port}"
[log]
access = false
{listeners}
[pool.main]
id = "eu-west-1_Embedded1"
client_id = "4hrtn0example0client0id000"
[pool.main.embedded]
address = "127.0.0.1:{self.pool_port}"
users = [{{ username = "demo", password = "Portcullis-1" }}]
[auth]
floor = "{20 + number % 3}ms"
[upstream.app]
servers = ["http://127.0.0.1:{self.upstream}"]
connect = "{3 + number % 2}s"
[upstream.only]
servers = ["whoami:"]
[identity]
prefix = "x-auth-"
headers = {{ "X-Auth-Subject" = "sub"{', "X-Auth-Pool" = "@pool"' if number % 4 == 0 else ""} }}
[[route]]
path = "/app/*"
upstream = "app"
[[route]]
path = "/app/socket"
upstream = "app"
websocket = true
[[route]]
path = "/only/{number}"
upstream = "only"
access = "public"
"""

    def bad(self, number):
        good = self.good(number)
        return [
            lambda: good.replace("[auth]", "[auht]"),
            lambda: good[: good.index("[identity]") + 20],
            lambda: good + f'[[listener]]\naddress = "127.0.0.1:{self.taken.getsockname()[1]}"\n',
            lambda: "",
        ][number // 3 % 4]()

    def write(self, text):
        """As an editor does: beside the file, and then in its place."""
        beside = self.config.with_suffix(".new")
        beside.write_text(text)
        beside.rename(self.config)

    def generation(self):
        return json.loads(self.admin("GET", "/config")[1])["generation"]

    def admin(self, method, path):
        return self.ask(method, path, port=self.admin_port, headers={"Host": "localhost"})

    def ask(self, method, path, body=None, headers=None, port=None):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        except ConnectionRefusedError:
            return 0, b""
        finally:
            connection.close()

    def start(self, command, **options):
        self.started.append(subprocess.Popen(command, **options))
        return self.started[-1]

    def end(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()


class Stream(threading.Thread):
    """Reads one long answer, and looks at every line."""

    path = "/app/stream"

    def __init__(self, port, headers):
        super().__init__(daemon=True)
        self.port, self.headers = port, headers
        self.count, self.broken, self.over = 0, None, False
        self.start()

    def run(self):
        try:
            self.work(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE))
        except Exception as error:  # any at all is a broken stream
            self.broken = f"after {self.count}: {error!r}"

    def work(self, connection):
        connection.request("GET", self.path, headers=self.headers)
        response = connection.getresponse()
        assert response.status == 200, response.status
        for line in response:
            assert line == b"%d\n" % self.count, line
            self.count += 1
            if self.over:
                return
        raise AssertionError("the answer ended early")

    def finish(self):
        self.over = True
        self.join(PATIENCE)
        return self.count


class Events(Stream):
    """The same for server-sent events."""

    path = "/app/stream?events"


class Socket(Stream):
    """Says something over a WebSocket, and waits until it comes back."""

    def work(self, connection):
        connection.connect()
        lines = {
            "Host": "gw", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **self.headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        stream = connection.sock.makefile("rwb")
        stream.write(f"GET /app/socket HTTP/1.1\r\n{head}\r\n".encode())
        stream.flush()
        status = stream.readline()
        assert status.startswith(b"HTTP/1.1 101 "), status
        while stream.readline() != b"\r\n":
            pass
        while not self.over:
            # A text frame with a mask of zeros (RFC 6455 §5.2), which the echo does not take off.
            frame = b"\x81\x8a\0\0\0\0" + b"%010d" % self.count
            stream.write(frame)
            stream.flush()
            said = stream.read(len(frame))
            assert said == frame, said
            self.count += 1
            time.sleep(0.05)
        connection.close()


class Upload(Stream):
    """Sends one long body, and hears how much of it arrived."""

    def work(self, connection):
        def pieces():
            while not self.over:
                self.count += 1
                yield b"x" * 100
                time.sleep(0.05)

        connection.request("POST", "/app/upload", pieces(), self.headers, encode_chunked=True)
        response = connection.getresponse()
        answer = (response.status, int(response.read()))
        assert answer == (200, self.count * 100), answer


def used(pid):
    """What a process has of what it could lose."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        "kb": int(re.search(r"VmRSS:\s+(\d+)", status)[1]),
        "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
    }


def expect(what, holds, otherwise):
    if not holds:
        print(f"NOT SO: {what}: {otherwise}")
    return holds


def wait_until(what, holds):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.02)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
