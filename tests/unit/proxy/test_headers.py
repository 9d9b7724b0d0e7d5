"""Who is said to have asked, and heads of answers."""

from __future__ import annotations

import pytest

from flow_manager.proxy.headers import Trust, client_address, forwarded_lines, own_response_bytes, plain_address

NOBODY = Trust([])
FRONT = Trust(["10.0.0.0/8", "fd00::1"])


def lines(peer: str, host: bytes, trust: Trust, *claims: tuple[bytes, bytes]) -> dict[str, str]:
    raw = forwarded_lines(peer, host, list(claims), trust).decode()
    assert raw.endswith("\r\n")
    return dict(line.split(": ", 1) for line in raw.removesuffix("\r\n").split("\r\n"))


CLAIMS = (
    (b"x-forwarded-for", b"6.6.6.6"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"evil.example"),
    (b"x-forwarded-port", b"1234"),
    (b"x-real-ip", b"6.6.6.6"),
    (b"forwarded", b"for=6.6.6.6"),
)


def test_a_stranger_is_believed_nothing() -> None:
    expected = {
        "X-Forwarded-For": "9.9.9.9",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "web.localhost:8081",
        "X-Forwarded-Port": "8081",
        "X-Real-IP": "9.9.9.9",
        "Forwarded": 'for=9.9.9.9;proto=http;host="web.localhost:8081"',
    }
    assert lines("9.9.9.9", b"web.localhost:8081", NOBODY, *CLAIMS) == expected
    assert lines("9.9.9.9", b"web.localhost:8081", FRONT, *CLAIMS) == expected


def test_a_trusted_proxy_speaks_for_its_client() -> None:
    told = lines("10.1.1.1", b"web.localhost", FRONT, *CLAIMS)
    assert told["X-Forwarded-For"] == "6.6.6.6, 10.1.1.1"
    assert told["X-Real-IP"] == "6.6.6.6"
    assert (told["X-Forwarded-Proto"], told["X-Forwarded-Host"], told["X-Forwarded-Port"]) == (
        "https",
        "evil.example",
        "1234",
    )
    assert told["Forwarded"] == 'for=6.6.6.6, for=10.1.1.1;proto=https;host="evil.example"'


@pytest.mark.parametrize(
    ("chain", "believed"),
    [
        (b"1.1.1.1, 6.6.6.6", "6.6.6.6, 10.1.1.1"),
        (b"1.1.1.1, 6.6.6.6, 10.2.2.2", "6.6.6.6, 10.2.2.2, 10.1.1.1"),
        (b"10.3.3.3, 10.2.2.2", "10.3.3.3, 10.2.2.2, 10.1.1.1"),
        (b"evil", "10.1.1.1"),
        (b"6.6.6.6, evil", "10.1.1.1"),
        (b"", "10.1.1.1"),
        (b"6.6.6.6\x00", "10.1.1.1"),
        (b"::ffff:6.6.6.6", "6.6.6.6, 10.1.1.1"),
        (b"2001:db8::1", "2001:db8::1, 10.1.1.1"),
    ],
)
def test_of_the_chain_only_what_trusted_proxies_vouch_for_is_believed(chain: bytes, believed: str) -> None:
    assert lines("10.1.1.1", b"w", FRONT, (b"x-forwarded-for", chain))["X-Forwarded-For"] == believed
    assert client_address("10.1.1.1", [(b"x-forwarded-for", chain)], FRONT) == believed.split(", ")[0]


@pytest.mark.parametrize(
    ("name", "value", "header", "kept"),
    [
        (b"x-forwarded-proto", b"ftp", "X-Forwarded-Proto", "http"),
        (b"x-forwarded-proto", b"HTTPS", "X-Forwarded-Proto", "https"),
        (b"x-forwarded-host", b"a@evil", "X-Forwarded-Host", "web"),
        (b"x-forwarded-host", b'a"b', "X-Forwarded-Host", "web"),
        (b"x-forwarded-port", b"99999", "X-Forwarded-Port", "80"),
        (b"x-forwarded-port", b"8 0", "X-Forwarded-Port", "80"),
    ],
)
def test_what_even_a_trusted_proxy_says_must_be_well_formed(name: bytes, value: bytes, header: str, kept: str) -> None:
    assert lines("10.1.1.1", b"web", FRONT, (name, value))[header] == kept


def test_an_ipv6_client_is_written_as_the_standards_ask() -> None:
    told = lines("2001:db8::7", b"web", NOBODY)
    assert told["X-Forwarded-For"] == "2001:db8::7"
    assert told["Forwarded"].startswith('for="[2001:db8::7]"')
    assert plain_address("fe80::1%eth0") == "fe80::1"
    assert plain_address("::ffff:10.0.0.1") == "10.0.0.1"


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError):
        Trust(["10.0.0.0/33"])
    with pytest.raises(ValueError):
        Trust(["front.example"])


def test_a_header_of_ours_can_not_break_out_of_its_line() -> None:
    with pytest.raises(ValueError):
        own_response_bytes(302, [(b"Location", b"/\r\nSet-Cookie: x")], framing=b"", date=b"")
