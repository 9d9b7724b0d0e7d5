"""What goes on: heads written anew from parsed facts, and who is said to have asked (RFC 9110 §7.6, RFC 7239). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from flow_manager.proxy.fields import Pairs
from flow_manager.proxy.parser import RequestHead
from flow_manager.proxy.response_parser import BODILESS, ResponseHead
from flow_manager.util.hosts import parse_authority

# Hops that a trusted proxy in front may list; beyond that a header is noise.
MAX_HOPS = 32
CHUNKED = b"Transfer-Encoding: chunked\r\n"
# No line tells it.
UNTIL_CLOSE = None
_FORWARDED_PORT = re.compile(rb"[0-9]{1,5}\Z")


class Trust:
    """Which proxies in front are believed: addresses and networks. :raises ValueError: one is neither."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(text, strict=False) for text in networks]

    def of(self, address: str) -> bool:
        if not self._networks:
            return False
        try:
            ip = ip_address(address)
        except ValueError:
            return False
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self._networks)


def plain_address(text: str) -> str:
    """Without a zone, and ::ffff:1.2.3.4 as 1.2.3.4."""
    text = text.partition("%")[0]
    if text.startswith("::ffff:") and "." in text:
        return text.removeprefix("::ffff:")
    return text


def forwarded_lines(peer: str, authority: bytes, claims: Pairs, trust: Trust) -> bytes:
    """X-Forwarded-*, X-Real-IP and Forwarded. What the request claims is used only where `peer` is trusted, and of the chain of
    addresses only the part that trusted proxies vouch for: from the right up to the first that isn't one of them."""
    if not claims or not trust.of(peer):
        return _lines((peer,), b"http", authority, None)
    named: dict[bytes, bytes] = {}
    for name, value in claims:
        # A list may come in several lines; of the others the last hop's own word counts.
        named[name] = named[name] + b"," + value if name in named and name == b"x-forwarded-for" else value
    proto = named.get(b"x-forwarded-proto", b"").lower()
    host = named.get(b"x-forwarded-host", b"")
    port = named.get(b"x-forwarded-port", b"")
    return _lines(
        _believed(peer, named.get(b"x-forwarded-for", b""), trust),
        proto if proto in (b"http", b"https") else b"http",
        host if parse_authority(host.decode("latin-1")) is not None else authority,
        port if _FORWARDED_PORT.match(port) and int(port) <= 65535 else None,
    )


def client_address(peer: str, claims: Pairs, trust: Trust) -> str:
    """Who asks: the peer, or whom the trusted proxies name."""
    if not claims or not trust.of(peer):
        return peer
    chain = b",".join(value for name, value in claims if name == b"x-forwarded-for")
    return _believed(peer, chain, trust)[0]


def _believed(peer: str, chain: bytes, trust: Trust) -> tuple[str, ...]:
    believed = [peer]
    for text in reversed(chain.decode("latin-1").split(",")[-MAX_HOPS:]):
        try:
            address = str(ip_address(plain_address(text.strip())))
        except ValueError:
            break
        believed.insert(0, address)
        if not trust.of(address):
            break
    return tuple(believed)


@lru_cache(maxsize=4096)
def _lines(chain: tuple[str, ...], proto: bytes, authority: bytes, port: bytes | None) -> bytes:
    parsed = parse_authority(authority.decode("latin-1"))
    if port is None:
        default = b"443" if proto == b"https" else b"80"
        port = b"%d" % parsed.port if parsed is not None and parsed.port is not None else default
    addresses = [address.encode("ascii", "replace") for address in chain]
    hops = b", ".join(b'for="[%b]"' % address if b":" in address else b"for=%b" % address for address in addresses)
    return (
        b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nX-Forwarded-Port: %b\r\n"
        b'X-Real-IP: %b\r\nForwarded: %b;proto=%b;host="%b"\r\n'
        % (b", ".join(addresses), proto, authority, port, addresses[0], hops, proto, authority)
    )


def request_bytes(head: RequestHead, forwarded: bytes) -> bytes:
    """The head that the upstream gets."""
    return b"%b %b HTTP/1.1\r\n%b" % (head.method, head.target, onward_fields(head, forwarded))


def onward_fields(head: RequestHead, forwarded: bytes) -> bytes:
    """What follows its request line. `forwarded` comes last, so that nothing named by the client can take it away."""
    parts = [b"Host: %b\r\n" % head.authority]
    if head.kept:
        parts.append(b"\r\n".join(head.kept))
        parts.append(b"\r\n")
    if head.chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    elif head.length is not None:
        parts.append(b"Content-Length: %d\r\n" % head.length)
    if head.upgrade is not None:
        parts.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade)
    parts.append(forwarded)
    parts.append(b"\r\n")
    return b"".join(parts)


def framing_of(head: ResponseHead, asked: RequestHead) -> bytes | None:
    """The line that tells the client where the response's body ends: `CHUNKED` where its length isn't known, `UNTIL_CLOSE` where
    the client is too old for that (RFC 9112, section 6.3)."""
    if head.length is not None and head.status != 204:
        return b"Content-Length: %d\r\n" % head.length
    if asked.method == b"HEAD" or head.status in BODILESS:
        return b""
    return CHUNKED if asked.minor == 1 else UNTIL_CLOSE


def response_bytes(head: ResponseHead, framing: bytes, connection: bytes, cold_start: bool) -> bytes:
    """The head that the client gets. `framing` and `connection` are whole lines, or nothing."""
    onward = head.onward
    if onward is None:
        lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason), *head.kept, b""]
        onward = head.onward = b"\r\n".join(lines)
    cold = b"X-Flow-Cold-Start: true\r\n" if cold_start else b""
    return b"%b%b%b%b\r\n" % (onward, cold, framing, connection)


def own_response_bytes(status: int, headers: Iterable[tuple[bytes, bytes]], *, framing: bytes, date: bytes) -> bytes:
    """The head of an answer of our own. :raises ValueError: a header would break out of its line."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode("ascii"))]
    for name, value in headers:
        if b"\r" in value or b"\n" in value or b"\0" in value:
            raise ValueError(f"a header value with a line end: {name!r}")
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join((*lines, b"Date: %b\r\n" % date, framing, b"\r\n"))
