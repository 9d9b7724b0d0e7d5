from __future__ import annotations

import pytest

from flow_manager.util.hosts import Authority, HostRule, is_loopback, parse_authority


@pytest.mark.parametrize(
    ("text", "name", "port"),
    [
        ("localhost", "localhost", None),
        ("LocalHost.:8080", "localhost", 8080),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]", "::1", None),
        ("[::1]:65535", "::1", 65535),
        ("a_b.example", "a_b.example", None),
    ],
)
def test_an_authority_is_read(text, name, port):
    assert parse_authority(text) == Authority(name, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "a@b",
        "a/b",
        "a:b",
        "a:",
        ":80",
        "a:65536",
        "::1",
        "[::1",
        "[x]",
        "[]",
        "-a",
        "a?b",
        "a\n",
        "x" * 300,
        "a:1:2",
    ],
)
def test_what_is_no_authority_is_refused(text):
    assert parse_authority(text) is None


@pytest.mark.parametrize(
    ("name", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("app.localhost", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_loopback_is_localhost_and_the_loopback_addresses(name, loopback):
    assert is_loopback(name) is loopback


@pytest.mark.parametrize(
    ("host", "local", "own_address", "accepted"),
    [
        ("localhost", "127.0.0.1", False, True),
        ("flows.example", "10.0.0.5", True, True),
        ("10.0.0.5", "10.0.0.5", True, True),
        ("10.0.0.5", "10.0.0.5", False, False),
        ("10.0.0.6", "10.0.0.5", True, False),
        ("evil.example", "10.0.0.5", True, False),
        ("10.0.0.5", None, True, False),
        ("fe80::1", "fe80::1%eth0", True, True),
    ],
)
def test_a_host_is_accepted_by_name_or_as_the_address_that_was_reached(host, local, own_address, accepted):
    rule = HostRule.of(["flows.example"], [], own_address=own_address)
    assert rule.accepts_host(Authority(host, None), local) is accepted


@pytest.mark.parametrize(
    ("origin", "host", "accepted"),
    [
        ("http://localhost:8080", "localhost:8080", True),
        ("http://LOCALHOST:8080", "localhost:8080", True),
        ("http://localhost", "localhost:80", True),
        ("https://flows.example", "flows.example", True),
        ("https://flows.example:443", "flows.example", True),
        ("https://dash.example", "localhost:8080", True),
        ("https://dash.example/", "localhost:8080", True),
        ("http://dash.example", "localhost:8080", False),
        ("http://localhost:3000", "localhost:8080", False),
        ("http://app.localhost:8080", "localhost:8080", False),
        ("null", "localhost:8080", False),
        ("", "localhost:8080", False),
        ("file://", "localhost:8080", False),
        ("http://a@localhost:8080", "localhost:8080", False),
        ("http://localhost:8080/path", "localhost:8080", False),
        ("ws://localhost:8080", "localhost:8080", False),
    ],
)
def test_an_origin_is_the_services_own_or_a_configured_one(origin, host, accepted):
    rule = HostRule.of([], ["https://dash.example"], own_address=False)
    assert rule.accepts_origin(origin, parse_authority(host)) is accepted
