"""Processes on chosen cores, what they consumed, and the gateways under measurement."""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

BINARY = os.environ["PORTCULLIS_BIN"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
# The proxy has this core to itself; load generator and upstream share the other.
PROXY_CORE = 0
OTHER_CORE = 1 if (os.cpu_count() or 1) > 1 else 0
POOL_ID, CLIENT_ID = "eu-west-1_Benchmark", "1bench2portcullis3client4a"
USER, PASSWORD = "demo", "Portcullis-1"


class Machine:
    """Starts processes, and ends all of them by id when it is left, however it is left."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="portcullis-peers."))
        self._ends = contextlib.ExitStack()
        # Workers that drop their rights read and write in there.
        self.folder.chmod(0o755)

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return self

    def __exit__(self, *_):
        self._ends.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name, command, core, output=None):
        """A process on one core; its output goes to a log in the folder unless told otherwise."""
        log = output or open(self.folder / f"{name}.log", "ab")
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *map(str, command)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
        )
        self._ends.callback(self._stop, process)
        return process

    def stop(self, process):
        """Ends a process now."""
        self._stop(process)

    @staticmethod
    def _stop(process):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def log_of(self, name):
        """The end of a process's log, for an error message."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    def gateway(self, name, pool, core, routes, upstream="whoami:", certificate=None, wait=True):
        """Portcullis with one worker, access log and metrics on. Returns process, port and admin port.

        The access log goes to a file that can be truncated between rounds.
        """
        port, admin = free_port(), free_port()
        secure = f'tls.certificates = [{{ chain = "{certificate.chain}", key = "{certificate.key}" }}]' if certificate else ""
        config = self.folder / f"{name}.toml"
        config.write_text(f"""
version = 1
[server]
workers = 1
[server.limits]
idle = "10m"
[[listener]]
address = "127.0.0.1:{port}"
{secure}
[admin]
address = "127.0.0.1:{admin}"
[log]
format = "json"
access = true
[pool.main]
id = "{POOL_ID}"
client_id = "{CLIENT_ID}"
{pool}
[upstream.app]
servers = ["{upstream}"]
{routes}
""")
        process = self.start(name, [BINARY, "run", "--config", config], core)
        if wait:
            wait_until(lambda: get(admin, "/ready")[0] == 200, process, lambda: self.log_of(name))
        return process, port, admin

    def token_pool(self):
        """A gateway of its own whose embedded pool issues the token, so that none of the measured ones has to.

        Returns the TOML with which another gateway uses this pool, and an access token of a user.
        """
        port = free_port()
        _, gateway, _ = self.gateway("pool", f"""
[pool.main.embedded]
address = "127.0.0.1:{port}"
users = [{{ username = "{USER}", password = "{PASSWORD}" }}]
""", OTHER_CORE, '[[route]]\npath = "/*"\nupstream = "app"')
        status, body = post(gateway, "/auth/login", {"username": USER, "password": PASSWORD})
        assert status == 200, f"login: {status} {body}"
        issuer = f"http://127.0.0.1:{port}/{POOL_ID}"
        toml = f'endpoint = "http://127.0.0.1:{port}"\nissuer = "{issuer}"\njwks = "{issuer}/.well-known/jwks.json"'
        return toml, json.loads(body)["access_token"]


def free_port():
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def get(port, path, headers=None, secure=False):
    """(status, body) of a GET; (0, reason) when nobody answers."""
    return _ask(port, "GET", path, None, headers or {}, secure)


def post(port, path, members):
    """(status, body) of a POST of JSON."""
    return _ask(port, "POST", path, json.dumps(members), {"Content-Type": "application/json"})


def _ask(port, method, path, body, headers, secure=False):
    if secure:
        # The certificate is one of this run; who made it is not in question.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except OSError as error:
        return 0, str(error)
    finally:
        connection.close()


def wait_until(condition, process, explain, seconds=30.0, interval=0.02):
    """Polls until the condition holds; raises with an explanation when the process ends or time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"not ready: {explain()}")
        time.sleep(interval)


def cpu_seconds(pid):
    """CPU time of a process, all its threads and all its children, to the nanosecond.

    From the scheduler's own accounting; from the coarser clock ticks where the kernel has none.
    """
    total = 0.0
    for one in [pid, *children(pid)]:
        try:
            total += sum(
                int((task / "schedstat").read_text().split()[0]) / 1e9
                for task in pathlib.Path(f"/proc/{one}/task").iterdir()
            )
        except FileNotFoundError:
            fields = pathlib.Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def resident_bytes(pid):
    """Resident memory of a process, anonymous and file-backed pages together."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"no VmRSS of {pid}")


def children(pid):
    """All processes below one, by id."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found
