"""How a server's certificate is checked: alike for its API and for its consoles."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterable
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util.ssl_ import ALPN_PROTOCOLS, create_urllib3_context


def make_context(verify: bool | str) -> ssl.SSLContext:
    """`verify` as requests takes it: True, False, or a file of certificates, none of which is read here.

    Signature, validity and name are checked; the form is not. Since Python 3.13 it is (VERIFY_X509_STRICT, in urllib3 too),
    and the authority that a Proxmox VE cluster makes for itself, without a `keyUsage`, is refused by that. A node's own
    certificate as `ca_file` is trusted as it stands (VERIFY_X509_PARTIAL_CHAIN), also before 3.13.
    """
    context = create_urllib3_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if verify is False:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        context.check_hostname, context.verify_mode = True, ssl.CERT_REQUIRED
    return context


def trusting_context(verify: bool | str) -> ssl.SSLContext:
    """The same, with the certificates read. :raises OSError: the file is gone; ssl.SSLError: it is none of certificates."""
    context = make_context(verify)
    if verify is not False:
        context.load_verify_locations(cafile=_file(verify))
    return context


class Trust:
    """The context that the threads of one server share: whole before any of them sees it, and never written to afterwards.

    OpenSSL takes certificates into a context without a lock (`X509_STORE_add_lookup`): two threads that do so at once, or one
    while another shakes hands, corrupt the heap and end the process. urllib3, given the file, does it at each connect.
    """

    def __init__(self, verify: bool | str) -> None:
        self._verify = verify
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._read: tuple[int, ...] = ()

    def context(self) -> ssl.SSLContext:
        """Another one when the file has changed; the last good one while what is there can't be read.

        :raises OSError, ssl.SSLError: as `trusting_context`, when there was none yet.
        """
        with self._lock:
            try:
                if self._context is None or self._stamp() != self._read:
                    self._read, self._context = self._stamp(), _settled(trusting_context(self._verify))
            except OSError:
                if self._context is None:
                    raise
            return self._context

    def _stamp(self) -> tuple[int, ...]:
        if self._verify is False:
            return ()
        found = Path(_file(self._verify)).stat()
        return found.st_mtime_ns, found.st_size, found.st_ino


def _settled(context: ssl.SSLContext) -> ssl.SSLContext:
    """urllib3 sets the protocols of ALPN at each connect, which frees the list that another thread's `SSL_new` is copying just
    then (it lets go of the interpreter's lock): they are set here, and never again."""
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    context.set_alpn_protocols = _already  # type: ignore[method-assign, assignment]
    return context


def _already(_protocols: Iterable[str]) -> None: ...


def _file(verify: bool | str) -> str:
    return DEFAULT_CA_BUNDLE_PATH if verify is True else str(verify)
