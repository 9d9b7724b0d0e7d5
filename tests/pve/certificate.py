"""A certificate authority of the emulator's own, made at its start, and a certificate of it for the loopback."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

HOSTS = ("127.0.0.1", "localhost", "::1")


def make(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """The server's context, and the file that a client has to trust."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    file = folder / "pve-root-ca.pem"
    authority.cert_pem.write_to_path(file)
    return context, file
