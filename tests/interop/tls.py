"""curl and OpenSSL at listeners that speak TLS."""

import json
import pathlib
import shutil
import socket
import subprocess
import time

import requests

from harness import BINARY, PATIENCE, free_port


class Site:
    """A gateway with two TLS listeners, of which the second wants client certificates, and a redirect."""

    def __init__(self, story):
        self.folder = story.folder
        self.port, self.inner, self.plain, self.admin_port = (free_port() for _ in range(4))
        for name, kind in (("app.example", "ec"), ("app.example", "rsa"), ("*.wild.example", "ec"), ("inner.example", "ec")):
            self.certificate(name, f"{file_name(name)}-{kind}", kind)
        self.authority()
        config = story.folder / "gateway.toml"
        config.write_text(f"""
version = 1
[server.limits]
handshake = "1s"
[[listener]]
address = "127.0.0.1:{self.port}"
[listener.tls]
certificates = [
  {{ chain = "app.example-ec.pem", key = "app.example-ec.key" }},
  {{ chain = "app.example-rsa.pem", key = "app.example-rsa.key" }},
  {{ chain = "wild.example-ec.pem", key = "wild.example-ec.key" }},
]
redirect_http_from = "127.0.0.1:{self.plain}"
[[listener]]
address = "127.0.0.1:{self.inner}"
[listener.tls]
certificates = [{{ chain = "inner.example-ec.pem", key = "inner.example-ec.key" }}]
client_ca = "clients.pem"
client_auth = "required"
[admin]
address = "127.0.0.1:{self.admin_port}"
[log]
level = "debug"
format = "json"
[upstream.app]
servers = ["whoami:"]
[[route]]
path = "/*"
upstream = "app"
access = "public"
""")
        self.log = story.logs / "gateway.log"
        story.start("gateway", [BINARY, "run", "--config", config], ready=self._is_ready)

    def _is_ready(self):
        try:
            return requests.get(f"http://127.0.0.1:{self.admin_port}/ready", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    def openssl(self, *arguments, text=""):
        """Runs an OpenSSL command to its end; returns exit code and output."""
        done = subprocess.run(
            ["openssl", *map(str, arguments)], input=text, capture_output=True, text=True, errors="replace", timeout=PATIENCE,
            cwd=self.folder,
        )
        return done.returncode, done.stdout + done.stderr

    def certificate(self, name, file, kind="ec"):
        """A self-signed certificate, in two files that appear one after the other."""
        how = ["rsa:2048"] if kind == "rsa" else ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        code, text = self.openssl(
            "req", "-x509", "-newkey", *how, "-nodes", "-days", "30", "-subj", f"/CN={name}",
            "-addext", f"subjectAltName=DNS:{name}", "-keyout", f"{file}.new.key", "-out", f"{file}.new.pem",
        )
        assert code == 0, text
        for end in ("pem", "key"):
            (self.folder / f"{file}.new.{end}").rename(self.folder / f"{file}.{end}")

    def authority(self):
        """An authority for clients, and a client that it vouches for; another client that nobody vouches for."""
        self.certificate("Clients", "clients")
        self.certificate("stranger", "stranger")
        code, text = self.openssl(
            "req", "-x509", "-CA", "clients.pem", "-CAkey", "clients.key", "-newkey", "rsa:2048", "-nodes", "-days", "30",
            "-subj", "/CN=ada", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", "ada.key", "-out", "ada.pem",
        )
        assert code == 0, text

    def curl(self, url_host, *arguments, port=None, path="/hello", trusted=None):
        """curl to a host name at the gateway; returns exit code, status, and body."""
        port = port or self.port
        done = subprocess.run(
            ["curl", "-sS", "--max-time", "20", "--noproxy", "*", "--resolve", f"{url_host}:{port}:127.0.0.1",
             "--cacert", f"{trusted or file_name(url_host) + '-ec'}.pem", "-w", "\n%{http_code} %{http_version} %{redirect_url}",
             *arguments, f"https://{url_host}:{port}{path}"],
            capture_output=True, text=True, timeout=PATIENCE, cwd=self.folder,
        )
        body, _, last = done.stdout.rpartition("\n")
        return done.returncode, last, body or done.stderr

    def s_client(self, *arguments, port=None, text="GET / HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n"):
        """openssl s_client with a request; returns exit code and everything it printed."""
        return self.openssl("s_client", "-connect", f"127.0.0.1:{port or self.port}", "-ign_eof", *arguments, text=text)


def file_name(host):
    return host.removeprefix("*.")


def handshakes(story):
    """curl and openssl s_client at TLS listeners: versions, SNI, client certificates, renewal, redirect"""
    for tool in ("curl", "openssl"):
        assert shutil.which(tool), f"{tool} is not installed"
    site = Site(story)

    with story.step("curl over TLS 1.3 and 1.2, HTTP/2 and HTTP/1.1; the upstream learns of https"):
        for version, how in (("1.3", "--tlsv1.3"), ("1.2", "--tls-max=1.2")):
            for protocol, option in (("2", "--http2"), ("1.1", "--http1.1"), ("1.1", "--no-alpn")):
                path = f"/v{version}{option}"
                code, last, body = site.curl("app.example", *how.split("="), option, path=path)
                assert code == 0 and last.startswith(f"200 {protocol} "), (path, code, last, body)
                headers = {name.lower(): value for name, value in json.loads(body)["headers"].items()}
                assert headers["x-forwarded-proto"] == "https", headers
                assert headers["x-forwarded-port"] == str(site.port), headers
                spoken = {"2": "HTTP/2", "1.1": "HTTP/1.1"}[protocol]
                assert any(f'"tls":"{version}"' in line and f'"protocol":"{spoken}"' in line
                           for line in lines_with(site.log, f'"path":"{path}"')), path
    with story.step("curl: an upload and a download of 20 MB over HTTP/2 and TLS; several requests over one connection"):
        upload = site.folder / "upload"
        upload.write_bytes(b"x" * 20_000_000)
        code, last, body = site.curl("app.example", "--http2", "-T", upload)
        assert code == 0 and json.loads(body)["body_length"] == 20_000_000, (code, last, body[:500])
        url = f"https://app.example:{site.port}"
        code, last, body = site.curl("app.example", "--http2", "-w", "%{num_connects} ", "-o", "first", f"{url}/2",
                                     "-o", "second", f"{url}/3", "-o", "third")
        assert code == 0 and (body + last).split() == ["1", "0", "0"], (code, last, body)
    with story.step("TLS 1.1 and 1.0 are refused, also when the client would stoop to it"):
        for version in ("-tls1_1", "-tls1"):
            code, text = site.s_client(version, "-cipher", "ALL:@SECLEVEL=0")
            assert code != 0 and "HTTP/1.1 200" not in text, text
            assert "SSL alert number" in text, text
    with story.step("SNI chooses the certificate; a wildcard is one label; unknown names get the first"):
        for name, subject in (
            ("app.example", "app.example"), ("a.wild.example", "*.wild.example"), ("a.b.wild.example", "app.example"),
            ("unknown.example", "app.example"),
        ):
            code, text = site.s_client("-servername", name)
            assert f"subject=CN = {subject}" in text and "HTTP/1.1 200" in text, text
        code, text = site.s_client("-noservername")
        assert "subject=CN = app.example" in text and "HTTP/1.1 200" in text, text
        code, last, body = site.curl("x.wild.example", trusted="wild.example-ec")
        assert code == 0 and last.startswith("200"), (code, last, body)
    with story.step("a client that knows only RSA gets the RSA certificate of the same name"):
        code, text = site.s_client("-servername", "app.example", "-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256")
        assert code == 0 and "HTTP/1.1 200" in text and "Cipher is ECDHE-RSA-AES128-GCM-SHA256" in text, text
    with story.step("only forward-secret AEAD ciphers: CBC, static RSA and 3DES are refused"):
        for cipher in ("ECDHE-RSA-AES128-SHA256", "AES128-GCM-SHA256", "AES128-SHA"):
            code, text = site.s_client("-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
            assert code != 0 and "handshake failure" in text, (cipher, text)
    with story.step("ALPN: h2 is agreed on before http/1.1; a protocol that is not spoken is refused"):
        code, text = site.s_client("-alpn", "http/1.1")
        assert "ALPN protocol: http/1.1" in text, text
        # What is sent is no preface, so that the connection ends.
        code, text = site.s_client("-alpn", "http/1.1,h2")
        assert "ALPN protocol: h2" in text, text
        code, text = site.s_client("-alpn", "imap")
        assert code != 0 and "alert" in text, text
    with story.step("sessions are resumed by ticket, in TLS 1.3 and 1.2; renegotiation is refused"):
        for version in ("-tls1_3", "-tls1_2"):
            code, text = site.s_client(version, "-servername", "app.example", "-sess_out", "session")
            assert "HTTP/1.1 200" in text, text
            code, text = site.s_client(version, "-servername", "app.example", "-sess_in", "session")
            assert "Reused, " in text and "HTTP/1.1 200" in text, text
        code, text = site.openssl("s_client", "-connect", f"127.0.0.1:{site.port}", "-tls1_2", text="R\n")
        assert "RENEGOTIATING" in text and "no renegotiation" in text, text
    with story.step("client certificates: none and a stranger's are refused, a good one goes upstream"):
        for protocol, option in (("2", "--http2"), ("1.1", "--http1.1")):
            for shown in ([], ["--cert", "stranger.pem", "--key", "stranger.key"]):
                code, last, body = site.curl("inner.example", option, *shown, port=site.inner)
                assert code != 0 and last.startswith("000"), (code, last, body)
            code, last, body = site.curl(
                "inner.example", option, "--cert", "ada.pem", "--key", "ada.key", "-H", "Client-Cert: :Zm9yZ2Vk:",
                port=site.inner,
            )
            assert code == 0 and last.startswith(f"200 {protocol} "), (code, last, body)
            headers = {name.lower(): value for name, value in json.loads(body)["headers"].items()}
            pem = (site.folder / "ada.pem").read_text()
            encoded = "".join(line for line in pem.splitlines() if "-----" not in line)
            assert headers["client-cert"] == f":{encoded}:", headers
    with story.step("a host that wants client certificates is 421 over a connection that did not"):
        for option in ("--http2", "--http1.1"):
            code, last, body = site.curl("app.example", option, "-H", "Host: inner.example")
            assert code == 0 and last.startswith("421") and json.loads(body)["code"] == "misdirected", (code, last, body)
    with story.step("the redirect answers 308 to https with the listener's port, for GET and POST"):
        for method in ("GET", "POST"):
            answer = requests.request(
                method, f"http://127.0.0.1:{site.plain}/a?b=c", headers={"Host": "app.example"}, allow_redirects=False, timeout=10
            )
            assert answer.status_code == 308, answer
            assert answer.headers["location"] == f"https://app.example:{site.port}/a?b=c", answer.headers
    with story.step("plain HTTP to a TLS listener gets no HTTP; silence ends with the handshake deadline"):
        with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: app.example\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP"), "an answer in plain text"
        with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE) as silent:
            assert silent.recv(100) == b""
    with story.step("a renewed certificate is served without a restart; the open connection goes on"):
        renew(site)
    with story.step("half a renewal, garbage, and a file that is gone change nothing and are logged"):
        before = site.folder / "app.example-ec.pem"
        good = before.read_text()
        for bad in ((site.folder / "stranger.pem").read_text(), "garbage", None):
            before.unlink()
            if bad is not None:
                before.write_text(bad)
            refusals = len(refused(site))
            wait_for(lambda: len(refused(site)) > refusals)
            (site.folder / "good.pem").write_text(good)
            code, last, body = site.curl("app.example", trusted="good")
            assert code == 0 and last.startswith("200"), (code, last, body)
        before.write_text(good)
    with story.step("the expiry metric tells what is served"):
        text = requests.get(f"http://127.0.0.1:{site.admin_port}/metrics", timeout=10).text
        values = {line.split('"')[1]: int(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                  if line.startswith("portcullis_tls_certificate_expiry_seconds{")}
        assert set(values) == {"app.example", "*.wild.example", "inner.example"}, values
        assert all(29 * 86400 < left <= 30 * 86400 for left in values.values()), values


def renew(site):
    """Replaces a certificate under a client that keeps its connection and one that opens new ones."""
    kept = subprocess.Popen(
        ["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{site.port}", "-servername", "app.example"],
        cwd=site.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )
    try:
        ask(kept)
        site.certificate("app.example", "app.example-ec")
        wait_for(lambda: site.curl("app.example")[0] == 0)
        ask(kept)
    finally:
        kept.stdin.close()
        kept.kill()
        kept.wait()


def ask(process):
    """One request over an open `s_client`."""
    process.stdin.write(b"GET /kept HTTP/1.1\r\nHost: app.example\r\n\r\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith(b"HTTP/1.1 200"), "the kept connection"
    length = 0
    while (line := process.stdout.readline().strip()):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    assert process.stdout.read(length), "a body"


def refused(site):
    return [line for line in site.log.read_text().splitlines() if "the old ones stay in use" in line]


def lines_with(log: pathlib.Path, text):
    """The lines of a log that have this text; waits for the first."""
    found = []

    def look():
        found[:] = [line for line in log.read_text().splitlines() if text in line]
        return found

    wait_for(look)
    return found


def wait_for(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
