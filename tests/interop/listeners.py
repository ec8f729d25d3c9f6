"""Who comes before a client's first byte: HAProxy and nginx with PROXY headers, curl at a unix
socket, and a service manager that opens sockets and wants to be told."""

import json
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import time

import requests

from harness import BINARY, PATIENCE, free_port, listens

# Where Debian's libnginx-mod-stream puts it.
STREAM_MODULE = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")
# Nobody else here connects from this address of loopback.
CLIENT = "127.0.0.9"


class Behind:
    """A gateway with three listeners that want a PROXY header: plain, on a unix socket, and with TLS."""

    def __init__(self, story):
        self.plain, self.tls, self.admin_port = free_port(), free_port(), free_port()
        self.socket = story.folder / "p.sock"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=app.example", "-keyout", "site.key", "-out", "site.pem"],
            cwd=story.folder, check=True, capture_output=True, timeout=PATIENCE,
        )
        config = story.folder / "gateway.toml"
        config.write_text(f"""
version = 1
[server]
trusted_proxies = ["127.0.0.1", "unix:"]
[[listener]]
address = "127.0.0.1:{self.plain}"
proxy_protocol = true
[[listener]]
address = "unix:p.sock"
proxy_protocol = true
[[listener]]
address = "127.0.0.1:{self.tls}"
proxy_protocol = true
[listener.tls]
certificates = [{{ chain = "site.pem", key = "site.key" }}]
[admin]
address = "127.0.0.1:{self.admin_port}"
[log]
format = "json"
[upstream.app]
servers = ["whoami:"]
[[route]]
path = "/*"
upstream = "app"
access = "public"
""")
        self.log = story.logs / "gateway.log"
        story.start("gateway", [BINARY, "run", "--config", config], ready=listens(self.admin_port))

    def refused(self):
        """How many connections were refused for want of a header, by reason."""
        text = requests.get(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=PATIENCE).text
        lines = [line for line in text.splitlines() if line.startswith("portcullis_proxy_refused_total{")]
        return {line.split('reason="')[1].split('"')[0]: int(line.split()[-1]) for line in lines}

    def lines(self, path):
        """The access lines of a path, once there is one."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = [json.loads(line) for line in self.log.read_text().splitlines() if f'"path":"{path}"' in line]
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"no access line of {path}")


def ask(port, path, tls=False, times=2):
    """GETs over one connection from CLIENT's address; returns what the upstream saw of each."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE, source_address=(CLIENT, 0)) as raw:
        stream = trusting_all().wrap_socket(raw, server_hostname="app.example") if tls else raw
        seen = []
        for _ in range(times):
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: app.example\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n".encode())
            seen.append(answer(stream))
        if tls:
            stream.close()
    return seen


def trusting_all():
    """TLS to a certificate that nobody vouches for."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def answer(stream):
    """Reads one answer of `whoami`."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += more(stream)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += more(stream)
    return json.loads(body)


def more(stream):
    received = stream.recv(65536)
    assert received, "closed in the middle of an answer"
    return received


def told(story, gateway, port, path, tls=False):
    """Asks through a proxy, and checks that the client is known on both ends."""
    for one in ask(port, path, tls):
        headers = one["headers"]
        assert headers["x-forwarded-for"] == CLIENT, headers
        assert headers["x-real-ip"] == CLIENT, headers
        assert headers["x-forwarded-port"] == str(port), headers
        assert headers["x-forwarded-proto"] == ("https" if tls else "http"), headers
    assert {line["client"] for line in gateway.lines(path)} == {CLIENT}, gateway.lines(path)


def haproxy(story):
    """HAProxy passes connections on with PROXY headers of both versions."""
    if shutil.which("haproxy") is None:
        return story.cannot("send-proxy", "haproxy is not installed")
    gateway = Behind(story)
    how = {
        "send-proxy": f"127.0.0.1:{gateway.plain} send-proxy",
        "send-proxy-v2": f"127.0.0.1:{gateway.plain} send-proxy-v2",
        "send-proxy-v2 with extensions and a checksum":
            f"127.0.0.1:{gateway.plain} send-proxy-v2 proxy-v2-options crc32c,unique-id,ssl,cert-cn",
        "send-proxy to a unix socket": f"unix@{gateway.socket} send-proxy",
        "send-proxy-v2 to a unix socket": f"unix@{gateway.socket} send-proxy-v2",
        "send-proxy, and TLS behind it": f"127.0.0.1:{gateway.tls} send-proxy",
        "send-proxy-v2, and TLS behind it": f"127.0.0.1:{gateway.tls} send-proxy-v2",
        "no header": f"127.0.0.1:{gateway.plain}",
    }
    ports = {name: free_port() for name in how}
    sections = "".join(
        f"listen l{port}\n  bind 127.0.0.1:{port}\n  unique-id-format %[uuid()]\n  server gate {how[name]}\n"
        for name, port in ports.items()
    )
    # Checks have a header of the proxy itself: version 1 with its own address, version 2 LOCAL.
    checked = {version: free_port() for version in ("send-proxy", "send-proxy-v2")}
    for version, port in checked.items():
        sections += (
            f"listen c{port}\n  bind 127.0.0.1:{port}\n  option httpchk\n"
            f"  http-check send meth GET uri /check-{version} ver HTTP/1.1 hdr Host app.example\n"
            f"  server gate 127.0.0.1:{gateway.plain} {version} check check-send-proxy inter 200ms\n"
        )
    (story.folder / "haproxy.cfg").write_text(
        f"global\n  maxconn 200\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n{sections}"
    )
    story.start("haproxy", ["haproxy", "-db", "-f", story.folder / "haproxy.cfg"], ready=listens(ports["send-proxy"]))
    for number, (name, port) in enumerate(ports.items()):
        if name == "no header":
            continue
        with story.step(name):
            told(story, gateway, port, f"/haproxy/{number}", tls="TLS" in name)
    with story.step("a connection that HAProxy passes on without a header is closed, and counted"):
        before = gateway.refused().get("missing", 0)
        try:
            ask(ports["no header"], "/none")
        except (AssertionError, ConnectionError):
            pass
        else:
            raise AssertionError("it was answered")
        assert gateway.refused() == {"missing": before + 1}, gateway.refused()
    for version in checked:
        with story.step(f"health checks with {version} are HAProxy's own"):
            line = gateway.lines(f"/check-{version}")[0]
            assert (line["status"], line["client"]) == (200, "127.0.0.1"), line


def nginx(story):
    """nginx passes connections on with `proxy_protocol on`, over TCP and to a unix socket."""
    if shutil.which("nginx") is None or not STREAM_MODULE.exists():
        return story.cannot("proxy_protocol on", "nginx or its stream module is not installed")
    gateway = Behind(story)
    how = {
        "proxy_protocol on": f"127.0.0.1:{gateway.plain}",
        "proxy_protocol on, to a unix socket": f"unix:{gateway.socket}",
        "proxy_protocol on, and TLS behind it": f"127.0.0.1:{gateway.tls}",
    }
    ports = {name: free_port() for name in how}
    servers = "".join(
        f"server {{ listen 127.0.0.1:{port}; proxy_pass {how[name]}; proxy_protocol on; }}\n" for name, port in ports.items()
    )
    (story.folder / "nginx.conf").write_text(
        f"load_module {STREAM_MODULE}; daemon off; master_process off; pid {story.folder}/nginx.pid; error_log stderr;\n"
        f"events {{}}\nstream {{\n{servers}}}\n"
    )
    first = next(iter(ports.values()))
    story.start("nginx", ["nginx", "-p", story.folder, "-e", "stderr", "-c", story.folder / "nginx.conf"], ready=listens(first))
    for number, (name, port) in enumerate(ports.items()):
        with story.step(name):
            told(story, gateway, port, f"/nginx/{number}", tls="TLS" in name)


SOCKETS = """
version = 1
[[listener]]
address = "unix:p.sock"
[[listener]]
address = "127.0.0.1:{port}"
[[listener]]
address = "systemd:web"
[admin]
address = "127.0.0.1:{admin}"
[upstream.app]
servers = ["whoami:"]
[[route]]
path = "/*"
upstream = "app"
access = "public"
"""


# What a service manager does between fork and exec; the process keeps its number.
BECOME = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def systemd(story):
    """systemd-socket-activate opens sockets, this program hears the notifications, and curl asks."""
    if shutil.which("systemd-socket-activate") is None:
        return story.cannot("socket activation", "systemd is not installed")
    port, named, admin = free_port(), free_port(), free_port()
    config = story.folder / "gateway.toml"
    config.write_text(SOCKETS.format(port=port, admin=admin))
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.settimeout(PATIENCE)
    manager.bind(str(story.folder / "notify"))
    environment = {"NOTIFY_SOCKET": str(story.folder / "notify"), "WATCHDOG_USEC": "400000"}
    kept = [f"--setenv={name}" for name in (*environment, "PATH")]
    process = story.start(
        "gateway",
        ["systemd-socket-activate", "-l", f"127.0.0.1:{port}", "-l", f"127.0.0.1:{named}", "--fdname=byaddress:web",
         *kept, BINARY, "run", "--config", config],
        environment=environment, ready=lambda: is_bound(port) and is_bound(named),
    )
    with story.step("the first connection starts the gateway, which takes sockets by address and by name"):
        for at in (port, named):
            assert curl(f"http://127.0.0.1:{at}/a")["path"] == "/a"
        assert "no [[listener]]" not in (story.logs / "gateway.log").read_text()
    with story.step("READY=1, WATCHDOG=1"):
        assert heard(manager).startswith("READY=1\nSTATUS=")
        assert [heard(manager, alive=True) for _ in range(2)] == ["WATCHDOG=1"] * 2
    with story.step("curl --unix-socket"):
        seen = curl("http://localhost/b", "--unix-socket", story.folder / "p.sock")
        assert seen["path"] == "/b" and "x-forwarded-for" not in seen["headers"], seen
        assert seen["headers"]["forwarded"] == 'for=unknown;host="localhost";proto=http', seen
    with story.step("a hangup is RELOADING=1 with a time, and READY=1"):
        process.send_signal(1)
        first, second = heard(manager), heard(manager)
        micros = int(first.split("MONOTONIC_USEC=")[1].split("\n")[0])
        assert first.startswith("RELOADING=1\n") and abs(micros / 1e6 - time.clock_gettime(time.CLOCK_MONOTONIC)) < PATIENCE
        assert second.startswith("READY=1\n"), second
        assert curl(f"http://127.0.0.1:{named}/c")["path"] == "/c"
    with story.step("the end is STOPPING=1, exit code 0, and no file"):
        process.terminate()
        assert heard(manager).startswith("STOPPING=1\n")
        assert process.wait(PATIENCE) == 0
        assert not (story.folder / "p.sock").exists()
    with story.step("a parent in Python passes a socket that it keeps, so that clients wait for the next process"):
        listening = socket.create_server(("127.0.0.1", 0))
        config.write_text(SOCKETS.format(port=listening.getsockname()[1], admin=admin).replace(
            '[[listener]]\naddress = "systemd:web"\n', ""))
        for path in ("/first", "/second"):
            waiting = subprocess.Popen(
                ["curl", "-sS", "--max-time", str(PATIENCE), f"http://127.0.0.1:{listening.getsockname()[1]}{path}"],
                stdout=subprocess.PIPE,
            )
            child = subprocess.Popen(
                [sys.executable, "-c", BECOME, str(listening.fileno()), BINARY, "run", "--config", str(config)],
                pass_fds=[listening.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=open(story.logs / "second.log", "ab"), cwd=story.folder,
            )
            try:
                body, _ = waiting.communicate(timeout=PATIENCE)
                assert json.loads(body)["path"] == path, body
            finally:
                child.terminate()
                assert child.wait(PATIENCE) == 0


def is_bound(port):
    """Whether somebody listens there, without connecting: the first connection is part of the story."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        return any(fields[1].endswith(f":{port:04X}") and fields[3] == "0A" for fields in map(str.split, table))


def heard(manager, alive=False):
    """The next message; signs of life only if asked for."""
    while True:
        message = manager.recv(4096).decode()
        if alive == (message == "WATCHDOG=1"):
            return message


def curl(*arguments):
    """What `whoami` says to curl."""
    done = subprocess.run(
        ["curl", "-sS", "--max-time", str(PATIENCE), *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE + 5
    )
    assert done.returncode == 0, done
    return json.loads(done.stdout)
