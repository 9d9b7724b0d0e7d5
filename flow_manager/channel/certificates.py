"""The certificate that flows on other machines are shown, and how they know it.

Where settings give none: an authority of this manager's own, made once and kept, and a certificate that it signs at each
start, so that another address or a lost file is no more than a restart. Flows are told the authority, which stays.
"""

from __future__ import annotations

import base64
import re
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, cast

from flow_manager.channel.kept import kept, put
from flow_manager.errors import SettingsRefused

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

# Flows keep what they were told when they were made: it has to outlive them all.
AUTHORITY_DAYS = 365 * 30
# Clocks of other machines may be behind.
BACKDATED_DAYS = 2
# Two sides that agree need three turns (RFC 8446, section 2); TLS 1.2 needs four.
TURNS = 10
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def server_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """:raises SettingsRefused: they can't be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    # A flow connects once: a ticket for a quick return would only be memory.
    context.num_tickets = 0
    try:
        # A password would be asked for on the terminal, for ever.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "unreadable"
        raise SettingsRefused(
            f"channel.tls_cert: {certificate} with {key or 'its key'} can't be used ({reason}); both are PEM files, the key "
            "without a password"
        ) from None
    return context


def authority_of(file: Path) -> bytes:
    """The certificates in a PEM file, as DER one after another. :raises SettingsRefused: there are none."""
    try:
        blocks = _PEM.findall(file.read_text("ascii", "replace"))
        der = b"".join(ssl.PEM_cert_to_DER_cert(block) for block in blocks)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a PEM file"
        raise SettingsRefused(f"channel.tls_ca: {file} can't be used ({reason})") from None
    if not der:
        raise SettingsRefused(f"channel.tls_ca: {file} holds no certificate")
    return der


def own(folder: Path, host: str, now: datetime) -> tuple[ssl.SSLContext, bytes]:
    """A context with a certificate for `host`, and the authority that signed it, as DER. What is kept is in `folder`.

    :raises SettingsRefused: the folder can't be used.
    """
    # A second to import: only for those who want it.
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        pem = kept(folder / "authority.pem", lambda: _pem(*_make_authority(now)))
        authority = x509.load_pem_x509_certificate(pem)
        signing = cast("EllipticCurvePrivateKey", serialization.load_pem_private_key(pem, None))
        key, certificate = _sign(authority, signing, host, now)
        put(folder / "server.pem", _pem(key, certificate))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "damaged: remove it, and make the flows on other machines anew"
        raise SettingsRefused(f"channel.tls_listen: {folder}/authority.pem can't be used ({reason})") from None
    return server_context(folder / "server.pem", None), authority.public_bytes(serialization.Encoding.DER)


def prove(context: ssl.SSLContext, host: str, authority: bytes | None) -> None:
    """Shake hands in memory as a flow would that is told to connect to `host`.

    :raises SettingsRefused: it would refuse us, and why.
    """
    client_context = ssl.create_default_context(cadata=authority)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(TURNS):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                reason = getattr(error, "verify_message", None) or error.reason or str(error)
                raise SettingsRefused(
                    f"channel.tls_cert: flows that are told to connect to {host} would refuse it ({reason}); give one for the "
                    "host of channel.tls_address, and in channel.tls_ca who signed it where no public authority did"
                ) from None


def one_line(authority: bytes) -> str:
    """As an environment variable can carry it anywhere: base64 of the DER, without line ends."""
    return base64.b64encode(authority).decode()


def _make_authority(now: datetime) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "flow-manager")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=BACKDATED_DAYS))
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _sign(
    authority: x509.Certificate, signing: EllipticCurvePrivateKey, host: str, now: datetime
) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    public = signing.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "flow-manager channel")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now.astimezone(UTC) - timedelta(days=BACKDATED_DAYS), authority.not_valid_before_utc))
        .not_valid_after(authority.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([_name(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(signing, hashes.SHA256())
    )
    return key, certificate


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: EllipticCurvePrivateKey, certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    secret: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public: bytes = certificate.public_bytes(serialization.Encoding.PEM)
    return secret + public
