"""CPU of the proxy process for each request, side by side.

Same upstream (nginx that answers 512 bytes), same load generator (wrk, 32 kept connections), same
request (an access token of about 1 KB in it) for all; one core for the proxy, another for the rest.
The peers write no access log and check nothing; Portcullis verifies, logs and counts every request.
"""

import dataclasses
import re
import statistics
import subprocess

from machine import OTHER_CORE, PROXY_CORE, cpu_seconds, free_port, get, listens, wait_until
from tls import make_certificate

CONNECTIONS = 32
H2_CONNECTIONS, H2_STREAMS = 8, 8
ANSWER = "x" * 512


@dataclasses.dataclass
class Proxy:
    """A process under measurement, and what was measured: microseconds for each request, requests for each second."""

    label: str
    pid: int
    port: int
    path: str
    log: object = None
    secure: bool = False
    micros: list = dataclasses.field(default_factory=list)
    rates: list = dataclasses.field(default_factory=list)


def report(machine, rounds, seconds):
    """The comparison without TLS."""
    upstream = start_upstream(machine)
    pool, token = machine.token_pool()
    proxies = [
        start_haproxy(machine, upstream), start_nginx(machine, upstream), *start_portcullis(machine, pool, upstream),
    ]
    compare(f"HTTP/1.1, {CONNECTIONS} connections", proxies, token, load, rounds, seconds)


def report_tls(machine, rounds, seconds):
    """The comparison with clients that speak TLS, first HTTP/1.1 and then HTTP/2."""
    upstream = start_upstream(machine)
    pool, token = machine.token_pool()
    certificate = make_certificate(machine.folder)
    proxies = [
        start_haproxy(machine, upstream, certificate), start_nginx(machine, upstream, certificate),
        *start_portcullis(machine, pool, upstream, certificate),
    ]
    compare(f"TLS 1.3, HTTP/1.1, {CONNECTIONS} connections", proxies, token, load, rounds, seconds)
    for proxy in proxies:
        proxy.micros, proxy.rates = [], []
    streams = f"{H2_CONNECTIONS} connections of {H2_STREAMS} streams"
    compare(f"TLS 1.3, HTTP/2, {streams}", proxies, token, h2load, rounds, seconds)


def compare(kind, proxies, token, load, rounds, seconds):
    """Runs the rounds, interleaved so that a slow minute hits all, and prints the table."""
    for proxy in proxies:
        check(proxy, token)
        load(proxy, token, 1)  # warm: connections, caches, the verified token
    for _ in range(rounds):
        for proxy in proxies:
            measure(proxy, token, load, seconds)

    print(f"CPU of the proxy for each request: {kind}, {rounds} rounds of {seconds} s, "
          f"token of {len(token)} bytes, answer of {len(ANSWER)} bytes")
    print(f"{'':42} {'µs median':>10} {'min':>6} - {'max':<6} {'requests/s':>11}")
    for proxy in proxies:
        print(f"{proxy.label:42} {statistics.median(proxy.micros):10.2f} {min(proxy.micros):6.2f} - "
              f"{max(proxy.micros):<6.2f} {statistics.median(proxy.rates):11.0f}")
    haproxy, nginx, portcullis, public = (statistics.median(proxy.micros) for proxy in proxies)
    print(f"ratio to HAProxy {portcullis / haproxy:.2f}, to nginx {portcullis / nginx:.2f}; "
          f"authentication itself {portcullis - public:+.2f} µs")


def start_upstream(machine):
    port = free_port()
    start_nginx_with(machine, "upstream", OTHER_CORE, port, f'location / {{ return 200 "{ANSWER}"; }}')
    return port


def start_haproxy(machine, upstream, certificate=None):
    secure = f" ssl crt {certificate.both} alpn h2,http/1.1" if certificate else ""
    port = free_port()
    config = machine.folder / "haproxy.cfg"
    config.write_text(f"""
global
    nbthread 1
    maxconn 1000
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 3s
    http-reuse always
frontend in
    bind 127.0.0.1:{port}{secure}
    default_backend out
backend out
    server upstream 127.0.0.1:{upstream}
""")
    process = machine.start("haproxy", ["haproxy", "-db", "-f", config], PROXY_CORE)
    wait_until(lambda: listens(port), process, lambda: machine.log_of("haproxy"))
    return Proxy(f"HAProxy {version('haproxy', '-v')}, forwarding", process.pid, port, "/hello", secure=bool(certificate))


def start_nginx(machine, upstream, certificate=None):
    port = free_port()
    secure = f"ssl_certificate {certificate.chain}; ssl_certificate_key {certificate.key};" if certificate else ""
    process = start_nginx_with(machine, "nginx", PROXY_CORE, port, secure + """
        location / {
            proxy_pass http://upstream;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }
    """, f"upstream upstream {{ server 127.0.0.1:{upstream}; keepalive {CONNECTIONS * 2}; keepalive_requests 1000000000; }}",
        " ssl http2" if certificate else "")
    return Proxy(f"nginx {version('nginx', '-v')}, forwarding", process.pid, port, "/hello", secure=bool(certificate))


def start_nginx_with(machine, name, core, port, location, upstream="", listen=""):
    folder = machine.folder / name
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(f"""
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    {upstream}
    server {{
        listen 127.0.0.1:{port}{listen};
        {location}
    }}
}}
""")
    process = machine.start(name, ["nginx", "-p", folder, "-c", config], core)
    wait_until(lambda: listens(port), process, lambda: machine.log_of(name))
    return process


def start_portcullis(machine, pool, upstream, certificate=None):
    """One gateway, measured on two routes: one that needs a token and one that does not."""
    process, port, _ = machine.gateway("portcullis", pool, PROXY_CORE, """
[[route]]
path = "/*"
upstream = "app"
[[route]]
path = "/public/*"
upstream = "app"
access = "public"
""", upstream=f"http://127.0.0.1:{upstream}", certificate=certificate)
    log = machine.folder / "portcullis.log"
    return [
        Proxy("Portcullis, authenticating, access log", process.pid, port, "/hello", log, bool(certificate)),
        Proxy("Portcullis, public route, access log", process.pid, port, "/public/hello", log, bool(certificate)),
    ]


def version(program, flag):
    """For instance 2.6.12."""
    done = subprocess.run([program, flag], capture_output=True, text=True, check=True)
    return re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)[0]


def check(proxy, token):
    """That the proxy does what its label says, before anything is measured."""
    status, body = get(proxy.port, proxy.path, {"Authorization": f"Bearer {token}"}, proxy.secure)
    assert (status, body) == (200, ANSWER), f"{proxy.label}: {status} {body[:300]}"
    without, _ = get(proxy.port, proxy.path, secure=proxy.secure)
    expected = 401 if "authenticating" in proxy.label else 200
    assert without == expected, f"{proxy.label} without a token: {without}"


def measure(proxy, token, load, seconds):
    before = cpu_seconds(proxy.pid)
    requests = load(proxy, token, seconds)
    proxy.micros.append((cpu_seconds(proxy.pid) - before) / requests * 1e6)
    proxy.rates.append(requests / seconds)
    if proxy.log is not None:
        lines = sum(chunk.count(b"\n") for chunk in read_chunks(proxy.log))
        # The writer may drop lines rather than hold up a request, but not most of them.
        assert lines > requests / 2, f"{proxy.label}: {lines} log lines for {requests} requests"
        proxy.log.write_bytes(b"")


def read_chunks(path):
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def load(proxy, token, seconds):
    """Runs wrk and returns the number of requests; all of them were answered well."""
    done = subprocess.run(
        ["taskset", "-c", str(OTHER_CORE), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s",
         "-H", f"Authorization: Bearer {token}", url(proxy)],
        capture_output=True, text=True, check=True, timeout=seconds + 60,
    )
    bad = re.search(r"Non-2xx.*|Socket errors.*", done.stdout)
    assert bad is None, f"{proxy.label}: {bad[0]}"
    return int(re.search(r"(\d+) requests in", done.stdout)[1])


def h2load(proxy, token, seconds):
    """Runs h2load and returns the number of requests; all of them were answered well."""
    done = subprocess.run(
        ["taskset", "-c", str(OTHER_CORE), "h2load", "-t1", f"-c{H2_CONNECTIONS}", f"-m{H2_STREAMS}", f"-D{seconds}",
         "-H", f"Authorization: Bearer {token}", url(proxy)],
        capture_output=True, text=True, check=True, timeout=seconds + 60,
    )
    # At the end of the time h2load gives up on what is under way, and does not count it.
    counted = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
    codes = re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", done.stdout)
    assert counted and codes and counted[3] == counted[4] == "0", f"{proxy.label}: {done.stdout}"
    assert "Application protocol: h2" in done.stdout, f"{proxy.label}: {done.stdout}"
    return int(counted[2])


def url(proxy):
    """Where the proxy is asked."""
    return f"{'https' if proxy.secure else 'http'}://127.0.0.1:{proxy.port}{proxy.path}"
