"""What became of a call that failed, before anybody says what it means: see `errors`."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import requests
import urllib3

from flow_manager.runtimes.proxmox.transport import LoginRefused, NoAuthority, NotAnApi

# pveproxy could not reach, or gave up on, the daemon or node behind it.
BAD_GATEWAY = frozenset({595, 596, 597, 598, 599})
UNREACHABLE = 0
# A worker that ends closes its connections, in the middle of a handshake too: that is no judgement of its certificate.
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError, ConnectionError)


class CallFailed(Exception):
    """`status` 0: there was no answer. `words` are the server's (or the library's) own, `fields` the parameters it refused.

    `sent`: the request may have reached the server, so that it may have been done all the same.
    """

    def __init__(
        self, status: int, words: str, *, fields: Mapping[str, Any] | None = None, sent: bool = True, tls: bool = False
    ) -> None:
        super().__init__(f"{status} {words}")
        self.status = status
        self.words = words
        self.fields = {str(key): str(value) for key, value in (fields or {}).items()}
        self.sent = sent
        self.tls = tls

    @property
    def lost(self) -> bool:
        """Nobody knows what the server made of it."""
        return self.sent and (self.status == UNREACHABLE or self.status in BAD_GATEWAY)

    @property
    def passing(self) -> bool:
        """May be gone at the next try of a read."""
        return (self.status == UNREACHABLE and not self.tls) or self.status in BAD_GATEWAY


def of_answer(status: int, words: str, errors: object) -> CallFailed:
    """An answer of 400 or more, as proxmoxer tells it: `errors` is a dict, None, or the raw body in a dict."""
    fields = errors if isinstance(errors, Mapping) and not isinstance(errors.get("errors"), bytes) else None
    # The server said no before it did anything, except where a proxy in between did not get an answer.
    return CallFailed(status, words or f"status {status}", fields=fields, sent=status in BAD_GATEWAY)


def of_exception(exc: BaseException) -> CallFailed:
    """The libraries' exceptions: no route, no such name, a wrong certificate, a cut connection, time-outs."""
    if isinstance(exc, LoginRefused):
        return CallFailed(401, str(exc), sent=False)
    if isinstance(exc, NotAnApi):
        return CallFailed(UNREACHABLE, str(exc), sent=False, tls=True)
    if isinstance(exc, requests.exceptions.SSLError) and not isinstance(_cause(exc), _CUT):
        return _of_tls(exc)
    if isinstance(exc, NoAuthority):
        return CallFailed(
            UNREACHABLE, "the ca_file with the server's certificate authority is gone", sent=False, tls=True
        )
    if isinstance(exc, requests.exceptions.ConnectTimeout):
        return CallFailed(UNREACHABLE, "no connection in time", sent=False)
    if isinstance(exc, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return CallFailed(UNREACHABLE, "no answer in time")
    if isinstance(exc, requests.exceptions.ConnectionError) and _never_connected(exc):
        return CallFailed(UNREACHABLE, f"no connection: {_root(exc)}", sent=False)
    return CallFailed(UNREACHABLE, f"the connection was cut ({type(_cause(exc)).__name__})")


def _of_tls(exc: BaseException) -> CallFailed:
    root = _cause(exc)
    if getattr(root, "reason", None) == "NO_CERTIFICATE_OR_CRL_FOUND":
        return CallFailed(UNREACHABLE, "the ca_file holds no certificate", sent=False, tls=True)
    if isinstance(root, ssl.SSLCertVerificationError | ssl.CertificateError) or "certificate" in str(root).lower():
        return CallFailed(UNREACHABLE, f"its certificate is not accepted: {_root(exc)}", sent=False, tls=True)
    what = getattr(root, "reason", None) or _root(exc)
    return CallFailed(UNREACHABLE, f"what answers there speaks no TLS that fits: {what}", sent=False, tls=True)


def _never_connected(exc: BaseException) -> bool:
    reason = getattr(exc.args[0] if exc.args else None, "reason", None)
    return isinstance(reason, urllib3.exceptions.NewConnectionError | urllib3.exceptions.ConnectTimeoutError)


def _cause(exc: BaseException) -> BaseException:
    seen = exc
    while (deeper := seen.__cause__ or seen.__context__) is not None:
        seen = deeper
    return seen


def _root(exc: BaseException) -> str:
    """The innermost words: `Connection refused`, `certificate verify failed: …`."""
    root = _cause(exc)
    text = getattr(root, "verify_message", None) or getattr(root, "strerror", None) or str(root)
    return str(text)[:200]
