"""A certificate authority of the emulator's own, made at its start, and a certificate of it for the loopback.

Both look like a genuine cluster's (pve-cluster: `openssl req -new -x509` with no extensions asked for, and `openssl x509 -req`
with an extfile): the authority has no `keyUsage`, the node's certificate names neither key. Strict checks of form, as Python
3.13 begins with, refuse them.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOSTS = ("127.0.0.1", "::1")
NAMES = ("localhost", "pve1")
LIFE = datetime.timedelta(days=730)


def make(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """The server's context, and the file that a client has to trust."""
    file, chain = folder / "pve-root-ca.pem", folder / "pve-ssl.pem"
    own_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    own_name = _name("Proxmox Virtual Environment", "PVE Cluster Manager CA")
    own = (
        _certificate(own_name, own_name, own_key)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own_key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own_key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(own_key, hashes.SHA256())
    )
    addresses = [x509.IPAddress(ipaddress.ip_address(host)) for host in HOSTS]
    leaf = (
        _certificate(_name("PVE Cluster Node", "pve1.localhost"), own_name, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .add_extension(x509.SubjectAlternativeName([*addresses, *map(x509.DNSName, NAMES)]), critical=False)
        .sign(own_key, hashes.SHA256())
    )
    file.write_bytes(own.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context, file


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + LIFE)
    )


def _name(unit: str, name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
