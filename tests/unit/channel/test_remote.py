"""The TLS port's certificate, its address, and what settings get wrong about them."""

from __future__ import annotations

import re
import socket
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from flow_manager.channel import certificates
from flow_manager.channel.remote import RemoteChannel
from flow_manager.errors import SettingsRefused
from flow_manager.settings.models import ChannelSettings
from flow_manager.util.clock import SystemClock

FLOW = "ddddeeeeffff"
Open = Any


@pytest.fixture
async def open_port(tmp_path: Path) -> AsyncIterator[Open]:
    made: list[RemoteChannel] = []

    def make(**settings: Any) -> RemoteChannel:
        values = {"tls_listen": "127.0.0.1:0", **settings}
        made.append(RemoteChannel(ChannelSettings(**values), tmp_path / "kept", SystemClock()))
        made[-1].open()
        return made[-1]

    yield make
    for port in made:
        await port.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> dict[str, Path]:
    """A certificate for flows.example, as an owner would give it."""
    issued = authority.issue_cert("flows.example")
    found = {name: tmp_path / f"{name}.pem" for name in ("tls_cert", "tls_key", "tls_ca")}
    found["tls_cert"].write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(found["tls_key"])
    authority.cert_pem.write_to_path(found["tls_ca"])
    return found


def trusted(port: RemoteChannel) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=b64decode(port.variables(FLOW)["FLOW_CA"]))


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, r"tls://127\.0\.0\.1:[1-9]\d+"),
        ({"tls_listen": "0.0.0.0:0", "tls_address": "flows.example"}, r"tls://flows\.example:[1-9]\d+"),
        ({"tls_address": "Flows.Example:9000"}, r"tls://flows\.example:9000"),
        ({"tls_listen": "[::1]:0"}, r"tls://\[::1\]:[1-9]\d+"),
        ({"tls_address": "192.0.2.1:9000"}, r"tls://192\.0\.2\.1:9000"),
    ],
)
def test_flows_are_told_an_address_that_the_certificate_names(
    open_port: Open, settings: dict[str, Any], url: str
) -> None:
    port = open_port(**settings)
    assert re.fullmatch(url, port.url)
    assert set(port.variables(FLOW)) == {"FLOW_URL", "FLOW_TOKEN", "FLOW_CA"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tls_listen": "0.0.0.0:0"}, "channel.tls_address the name or address"),
        ({"tls_listen": "[::]:0"}, "channel.tls_address the name or address"),
        ({"tls_address": "0.0.0.0:8082"}, "no flow can connect to 0.0.0.0"),
        ({"tls_address": "a b:1"}, "is no host:port"),
        ({"tls_address": "tls://flows.example:1"}, "is no host:port"),
        ({"tls_listen": "127.0.0.1:99999"}, "is no host:port"),
        ({"tls_listen": "192.0.2.1:0"}, "can't be listened on"),
    ],
)
def test_an_address_that_can_not_be_used_is_refused_with_the_remedy(
    open_port: Open, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsRefused, match=re.escape(words)):
        open_port(**settings)


def test_a_port_that_is_taken_is_refused(open_port: Open) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(SettingsRefused, match="can't be listened on"):
            open_port(tls_listen=f"127.0.0.1:{other.getsockname()[1]}")


def test_a_certificate_of_the_owners_is_used_with_its_authority(open_port: Open, files: dict[str, Path]) -> None:
    port = open_port(tls_address="flows.example:1", **files)
    told = port.variables(FLOW)["FLOW_CA"]
    assert b64decode(told) == ssl.PEM_cert_to_DER_cert(files["tls_ca"].read_text())
    assert "\n" not in told


def test_one_for_another_host_is_refused_at_start_and_not_by_each_flow(open_port: Open, files: dict[str, Path]) -> None:
    with pytest.raises(SettingsRefused, match=r"connect to other\.example would refuse it \(Hostname mismatch"):
        open_port(tls_address="other.example:1", **files)


def test_one_that_no_public_authority_signed_needs_its_own(open_port: Open, files: dict[str, Path]) -> None:
    del files["tls_ca"]
    with pytest.raises(SettingsRefused, match=r"channel\.tls_ca who signed it"):
        open_port(tls_address="flows.example:1", **files)


@pytest.mark.parametrize("name", ["tls_cert", "tls_key", "tls_ca"])
@pytest.mark.parametrize("content", [None, b"", b"rubbish", b"\xff\x00"])
def test_files_that_can_not_be_used_are_refused(
    open_port: Open, files: dict[str, Path], name: str, content: bytes | None
) -> None:
    files[name].unlink()
    if content is not None:
        files[name].write_bytes(content)
    with pytest.raises(SettingsRefused, match=str(files[name])):
        open_port(tls_address="flows.example:1", **files)


def test_a_key_with_a_password_is_refused_and_not_asked_for(
    open_port: Open, files: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(files["tls_key"].read_bytes(), None)
    files["tls_key"].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(SettingsRefused, match="without a password"):
        open_port(tls_address="flows.example:1", **files)


@pytest.mark.parametrize("name", ["authority.pem", "token.key"])
def test_what_is_kept_is_refused_when_damaged_or_open_to_others(open_port: Open, tmp_path: Path, name: str) -> None:
    open_port()
    file = tmp_path / "kept" / name
    file.chmod(0o644)
    with pytest.raises(SettingsRefused, match=f"{name} can't be used .*others may read it"):
        open_port()
    file.chmod(0o600)
    file.write_bytes(b"rubbish")
    with pytest.raises(SettingsRefused, match=f"{name} can't be used"):
        open_port()


def test_everything_that_is_kept_is_for_the_managers_eyes(open_port: Open, tmp_path: Path) -> None:
    open_port()
    kept = sorted((tmp_path / "kept").iterdir())
    assert [file.name for file in kept] == ["authority.pem", "server.pem", "token.key"]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in kept)


def test_another_address_is_no_more_than_a_restart(open_port: Open) -> None:
    first = open_port(tls_address="a.example:1")
    second = open_port(tls_address="b.example:1")
    assert first.variables(FLOW)["FLOW_CA"] == second.variables(FLOW)["FLOW_CA"]
    assert first.variables(FLOW)["FLOW_TOKEN"] == second.variables(FLOW)["FLOW_TOKEN"]


def test_strict_checks_take_what_is_made(tmp_path: Path) -> None:
    """Python 3.13 checks strictly by default (RFC 5280): what it would refuse, no flow there could use."""
    context, authority = certificates.own(tmp_path, "flows.example", datetime.now(UTC))
    client = ssl.create_default_context(cadata=authority)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname="flows.example"),
        context.wrap_bio(to_server, to_client, server_side=True),
    ]
    done = 0
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
    assert done >= 2


def test_every_flow_has_a_token_of_its_own(open_port: Open) -> None:
    port = open_port()
    tokens = {port.variables(flow_id)["FLOW_TOKEN"] for flow_id in (FLOW, "aaaabbbbcccc", "aaaabbbbcccd")}
    assert len(tokens) == 3
    assert all(len(token) == 43 for token in tokens)
