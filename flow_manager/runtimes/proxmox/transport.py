"""proxmoxer's session, made fit for a service: bounded, deaf to the environment, and with the server's own words.

What proxmoxer 2.3 does by itself, and what is done about it here:

- without `requests` it ends the whole process at import (`sys.exit`): `requests` is imported first;
- it throws the JSON `message` of an error away and keeps the reason phrase, which proxies strip: they are joined;
- a redirect gives None, an answer that is no JSON gives a dict: both are refused;
- it turns warnings about unchecked certificates off in the whole process: only where the operator turned the check off;
- its logger tells request data, passwords too, at INFO: such records are dropped;
- a session believes HTTPS_PROXY, REQUESTS_CA_BUNDLE and .netrc: not here;
- each thread that connects reads the certificates into the context of all, which can end the process: `Trust` reads them.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import orjson
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.cookies import RequestsCookieJar, cookiejar_from_dict

from flow_manager.runtimes.proxmox.tls import Trust, make_context

# The server itself gives up after 30 s and answers 596; a read of ours that takes ten has failed.
READ_SECONDS, WRITE_SECONDS = 10.0, 35.0
DEFAULT_PORT = 8006
# A ticket is valid for two hours.
TICKET_AGE = 3600.0
# Above this an answer is no answer: 1,000 containers are 310 KB.
MAX_BYTES = 64 * 1024 * 1024
_LOGGERS = ("proxmoxer.core", "proxmoxer.backends.https")


class NotAnApi(requests.exceptions.RequestException):
    """What answered is no Proxmox VE API; the message says what it did."""


class NoAuthority(requests.exceptions.RequestException):
    """The file with the server's certificate authority can't be read."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    prefix: str | None


@dataclass(frozen=True, slots=True)
class Login:
    """An API token, or a user with a password. Nothing of it is ever shown."""

    token_id: str | None = None
    secret: str | None = None
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Login({self.token_id or self.user})"


def parse_url(url: str) -> Address:
    """`https://pve1:8006[/prefix][/api2/json]` → its parts. :raises ValueError: it is no such address."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("not an https:// address")
    prefix = parts.path.rstrip("/").removesuffix("/json").removesuffix("/api2").strip("/")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(host, parts.port or DEFAULT_PORT, prefix or None)


def make_api(address: Address, login: Login, *, verify: bool | str, connect: float, connections: int) -> Any:
    """A `ProxmoxAPI`. Does no I/O: a ticket is fetched by the first call."""
    with warnings.catch_warnings():
        from proxmoxer import ProxmoxAPI

        # Its backend, which changes the warnings' filters, is only loaded here.
        user, _, token = (login.token_id or "").partition("!")
        api = ProxmoxAPI(
            address.host,
            port=address.port,
            path_prefix=address.prefix,
            user=user,
            token_name=token,
            token_value=login.secret or "",
            verify_ssl=verify,
            timeout=(connect, WRITE_SECONDS),
        )
    if verify is False:
        warnings.filterwarnings("ignore", category=urllib3.exceptions.InsecureRequestWarning)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Discreet) for known in logger.filters):
            logger.addFilter(_Discreet())
    session: requests.Session = api._store["session"]
    session.trust_env = False
    # proxmoxer sends the ticket only while the session itself has no cookie.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.mount("https://", PveAdapter(connections, verify))
    if login.token_id is None:
        base = api._store["base_url"]
        session.auth = TicketAuth(session, base, login, verify=verify, timeout=(connect, WRITE_SECONDS))
    return api


def skew_of(api: Any) -> float:
    """Seconds by which the server's clock is ahead of ours."""
    adapter = session_of(api).get_adapter("https://")
    return adapter.skew if isinstance(adapter, PveAdapter) else 0.0


def session_of(api: Any) -> requests.Session:
    session: requests.Session = api._store["session"]
    return session


class _Discreet(logging.Filter):
    """Lets nothing below WARNING through: those records hold request data."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING


class PveAdapter(HTTPAdapter):
    """As many connections as there are threads; more callers wait. Answers are judged before proxmoxer sees them."""

    def __init__(self, connections: int, verify: bool | str = True) -> None:
        self._connections = connections
        self._trust = Trust(verify)
        self._lock = threading.Lock()
        self._context = make_context(verify)  # trusts nobody: the first call reads the certificates
        super().__init__(pool_connections=1, pool_maxsize=connections, pool_block=True)
        self.skew = 0.0

    def init_poolmanager(self, *sizes: Any, **options: Any) -> None:
        super().init_poolmanager(*sizes, ssl_context=self._context, **options)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Not requests' own: that one has urllib3 read the certificates at each connect. See `Trust`."""
        conn.cert_reqs = "CERT_REQUIRED" if verify else "CERT_NONE"

    def _renew(self) -> None:
        try:
            context = self._trust.context()
        except ssl.SSLError as exc:
            raise requests.exceptions.SSLError(exc) from exc
        except OSError as exc:
            raise NoAuthority(str(exc)) from exc
        with self._lock:
            if context is not self._context:
                self._context = context
                # What is under way ends on the connections it has.
                self.init_poolmanager(1, self._connections, block=True)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]
        self._renew()
        options["verify"] = options["verify"] is not False  # a file's name would go to urllib3
        connect = options["timeout"][0]
        options["timeout"] = (connect, READ_SECONDS if request.method == "GET" else WRITE_SECONDS)
        options["stream"] = True  # the body is read here, and only so much of it
        response = super().send(request, **options)
        if (date := parsedate_tz(response.headers.get("Date"))) is not None:
            self.skew = mktime_tz(date) - time.time()
        body = _read(response)
        response._content, response._content_consumed = body, True
        response.close()
        if 300 <= response.status_code < 400:
            raise NotAnApi(f"it sends elsewhere ({response.status_code}), as no Proxmox VE server does")
        if response.status_code < 300:
            if not isinstance(_json(body), Mapping) or "data" not in (_json(body) or {}):
                raise NotAnApi("it answers with something that is no Proxmox VE data")
            return response
        response.reason = words_of(body, response.reason)
        if not isinstance(_json(body), Mapping):
            response._content = b""  # of a list or `null`, or a gateway's page, proxmoxer would look for `errors`
        return response


def _read(response: requests.Response) -> bytes:
    body = bytearray()
    while chunk := response.raw.read(64 * 1024, decode_content=True):
        body += chunk
        if len(body) > MAX_BYTES:
            response.raw.close()
            raise NotAnApi(f"an answer of more than {MAX_BYTES} bytes")
    return bytes(body)


def words_of(body: bytes, reason: str | None) -> str:
    """The server's own words of an error: the JSON `message` (since PVE 8.3) where it is there, else the reason phrase."""
    data = _json(body)
    message = data.get("message") if isinstance(data, Mapping) else None
    return " ".join((message if isinstance(message, str) and message.strip() else reason or "").split())


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


class TicketAuth(AuthBase):
    """A user's ticket, fetched when it is first needed and renewed when it gets old.

    Not proxmoxer's own: that one logs in inside its constructor, outside the session, and believes the environment.
    """

    def __init__(
        self,
        session: requests.Session,
        base_url: str,
        login: Login,
        *,
        verify: bool | str,
        timeout: tuple[float, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._url, self._login, self._clock = session, f"{base_url}/access/ticket", login, clock
        # Read by proxmoxer's session.
        self.verify_ssl, self.timeout = verify, timeout
        self._lock = threading.Lock()
        self._ticket, self._csrf, self._born = "", "", 0.0
        self._sent = threading.local()

    def get_cookies(self) -> RequestsCookieJar:
        """Asked for before each request."""
        self._sent.ticket = ""
        with self._lock:
            if not self._ticket or self._clock() - self._born >= TICKET_AGE:
                self._log_in()
            self._sent.ticket = self._ticket
            return cookiejar_from_dict({"PVEAuthCookie": self._ticket})

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if request.method != "GET":
            request.headers["CSRFPreventionToken"] = self._csrf
        return request

    def forget(self) -> bool:
        """The server refused the ticket of this thread's last request: log in anew at the next. False when it had none: then the
        login itself was refused.

        Several threads hear so of one ticket at once: the first forgets it, and none of them the one that took its place.
        """
        refused = getattr(self._sent, "ticket", "")
        with self._lock:
            if self._ticket == refused:
                self._ticket = ""
        return bool(refused)

    def _log_in(self) -> None:
        data = {"username": self._login.user, "password": self._login.password}
        request = requests.Request("POST", self._url, data=data).prepare()
        response = self._session.send(
            request, verify=self.verify_ssl, timeout=self.timeout, allow_redirects=False, proxies={}
        )
        if response.status_code in (400, 401, 403):
            raise LoginRefused(response.reason or "authentication failure")
        if response.status_code >= 300:
            raise NotAnApi(f"the login was answered with {response.status_code} {response.reason}")
        found = response.json()["data"]
        if not isinstance(found, Mapping) or found.get("NeedTFA"):
            raise LoginRefused("the user needs a second factor: use an API token")
        self._ticket, self._csrf = str(found.get("ticket", "")), str(found.get("CSRFPreventionToken", ""))
        self._born = self._clock()


class LoginRefused(requests.exceptions.RequestException):
    """User and password were not accepted, in the server's words."""
