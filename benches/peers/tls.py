"""A certificate for those who are compared over TLS."""

import dataclasses
import pathlib
import subprocess


@dataclasses.dataclass
class Certificate:
    """Paths of PEM files; HAProxy wants both in one."""

    chain: pathlib.Path
    key: pathlib.Path
    both: pathlib.Path


def make_certificate(folder):
    """A certificate of its own making for 127.0.0.1, ECDSA P-256: all peers take it."""
    chain, key, both = folder / "site.pem", folder / "site.key", folder / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", chain],
        check=True, capture_output=True,
    )
    both.write_bytes(chain.read_bytes() + key.read_bytes())
    for file in (key, both):
        file.chmod(0o644)  # workers drop their rights
    return Certificate(chain, key, both)
