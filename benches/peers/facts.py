"""What is not speed: memory, start-up time, sizes."""

import os
import pathlib
import resource
import socket
import ssl
import statistics
import subprocess
import time

from machine import BINARY, OTHER_CORE, PROXY_CORE, ROOT, get, resident_bytes, wait_until
from tls import make_certificate

IDLE_CONNECTIONS = 10_000
STARTS = 7
ROUTES = '[[route]]\npath = "/*"\nupstream = "app"'


def report(machine):
    """Prints one fact a line."""
    pool, token = machine.token_pool()
    starts = [start_seconds(machine, pool, number) for number in range(STARTS)]
    print(f"start-up to ready, keys fetched   {statistics.median(starts) * 1000:.0f} ms "
          f"({min(starts) * 1000:.0f} - {max(starts) * 1000:.0f}, {STARTS} starts)")

    allow_files(IDLE_CONNECTIONS + 1000)
    process, port, _ = machine.gateway("measured", pool, PROXY_CORE, ROUTES)
    at_rest = resident_bytes(process.pid)
    print(f"resident memory at rest           {at_rest / 2**20:.1f} MiB")
    connections = [open_connection(port, token) for _ in range(IDLE_CONNECTIONS)]
    idle = resident_bytes(process.pid)
    print(f"per idle kept connection          {(idle - at_rest) / IDLE_CONNECTIONS / 1024:.1f} KiB "
          f"({IDLE_CONNECTIONS} connections, one authenticated request on each: {idle / 2**20:.0f} MiB)")
    for connection in connections:
        connection.close()
    machine.stop(process)
    report_idle_tls(machine, pool, token)

    print(f"binary                            {os.path.getsize(BINARY) / 2**20:.1f} MiB, "
          f"{stripped_size(machine) / 2**20:.1f} MiB stripped ({BINARY_KIND})")
    for label, flags in (("", []), (" without devpool", ["--no-default-features"])):
        print(f"crates{label:28}{crates(flags)}")
    code, tests = lines_of_code()
    print(f"lines of Rust in src/             {code} code, {tests} unit tests (no blank lines, no comments)")


def report_idle_tls(machine, pool, token):
    process, port, _ = machine.gateway("secure", pool, PROXY_CORE, ROUTES, certificate=make_certificate(machine.folder))
    context = ssl._create_unverified_context()
    at_rest = resident_bytes(process.pid)
    connections = [open_connection(port, token, context) for _ in range(IDLE_CONNECTIONS)]
    idle = resident_bytes(process.pid)
    print(f"per idle kept connection, TLS     {(idle - at_rest) / IDLE_CONNECTIONS / 1024:.1f} KiB "
          f"({IDLE_CONNECTIONS} connections, one authenticated request on each: {idle / 2**20:.0f} MiB)")
    for connection in connections:
        connection.close()


BINARY_KIND = "release" if "release" in pathlib.Path(BINARY).parts else "not a release build"


def start_seconds(machine, pool, number):
    """From the start of the process to the first 200 of `/ready`, asked every millisecond."""
    began = time.monotonic()
    process, _, admin = machine.gateway(f"start-{number}", pool, OTHER_CORE, ROUTES, wait=False)
    wait_until(lambda: get(admin, "/ready")[0] == 200, process, lambda: machine.log_of(f"start-{number}"), interval=0.001)
    took = time.monotonic() - began
    machine.stop(process)
    return took


def allow_files(number):
    """Room for the connections here; the gateway inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        raise SystemExit(f"at most {hard} open files are allowed here, {number} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number), hard))


def open_connection(port, token, context=None):
    """A connection that made one request and stays open."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    if context:
        connection = context.wrap_socket(connection, server_hostname="localhost")
    connection.sendall(f"GET /hello HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536) or b"\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65536)
    return connection


def stripped_size(machine):
    target = machine.folder / "stripped"
    subprocess.run(["strip", "-o", target, BINARY], check=True)
    return target.stat().st_size


def crates(flags):
    """Packages that are compiled in, build scripts and macros included, this one not."""
    done = subprocess.run(
        ["cargo", "tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--no-dedupe", *flags],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )
    return len({" ".join(line.split()[:2]) for line in done.stdout.splitlines() if line.strip()}) - 1


def lines_of_code():
    """(code, unit tests) of src/; a file's tests are what follows its `#[cfg(test)]` module's line."""
    code = tests = 0
    for path in sorted((ROOT / "src").rglob("*.rs")):
        in_tests = path.name == "tests.rs"
        pending = False
        for line in path.read_text().splitlines():
            text = line.strip()
            if not text or text.startswith("//"):
                continue
            if pending and text.startswith("mod ") and text.endswith("{"):
                in_tests = True
            pending = text == "#[cfg(test)]" or (pending and text.startswith("#["))
            if in_tests:
                tests += 1
            else:
                code += 1
    return code, tests
