"""What runs inside a flow: talk to the flow manager over the flow's own socket, or over TLS from another machine.

One file, the standard library alone, Python 3.8 and newer: installed as `flow_sdk`, or copied beside the program as
`flow_sdk.py`.

    from flow_sdk import Flow

    flow = Flow()

    @flow.on_message
    def handle(body):
        return {"echo": body}

    flow.ready()
    flow.run()

Any thread may call any method. Messages are handled one after another, in the thread that called `run`. The connection is
kept by a thread of its own: it comes back by itself when the manager restarts, and what was sent meanwhile is sent then.
"""

from __future__ import annotations

import base64
import collections
import json
import os
import random
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
import urllib.parse
import uuid
from typing import Any, Callable, Deque, Dict, Optional, Tuple

__all__ = ["BufferFull", "Flow", "FrameTooLarge"]

CONTRACT = 1
# Bytes of one line, as the manager allows it.
MAX_LINE = 1024 * 1024
# Seconds between two tries to connect: the first, and the longest. Jitter keeps 500 flows from coming back at once.
FIRST_DELAY = 0.1
LONGEST_DELAY = 2.0
# And the longest after a refusal (a wrong token, a certificate that is not trusted), which seldom passes by itself.
REFUSED_DELAY = 10.0
CONNECT_TIMEOUT = 5.0
# Seconds that the manager on another machine gets to read what was sent last.
GOODBYE_TIMEOUT = 1.0
# Bytes of one TLS record.
RECORD = 16 * 1024
# A manager whose machine went away without a word is noticed after half a minute (tcp(7); not every system has all).
KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30000))
# Seconds that `close` waits for what is still to be sent.
FLUSH_TIMEOUT = 2.0
# Messages that may wait for the handler; beyond it the socket is not read, and the manager waits.
MAX_INCOMING = 1000


class BufferFull(RuntimeError):
    """Too much waits to be sent: the manager is away, or slower than the flow."""


class FrameTooLarge(ValueError):
    """A message would be longer than a line may be (1 MiB)."""


class Flow:
    """The flow's end of its channel.

    `flow_id` and `socket_path` are found in FLOW_ID and FLOW_SOCKET; on another machine than the manager's, `url`, `token`
    and `ca` in FLOW_URL (`tls://host:port`), FLOW_TOKEN and FLOW_CA (PEM, or its base64 in one line; none: an authority that
    this system knows). `buffer`: bytes that may wait to be sent or to be acknowledged; beyond it `send` and `event` raise
    BufferFull.
    """

    def __init__(
        self,
        flow_id: Optional[str] = None,
        socket_path: Optional[str] = None,
        buffer: int = 4 * 1024 * 1024,
        url: Optional[str] = None,
        token: Optional[str] = None,
        ca: Optional[str] = None,
    ) -> None:
        self.flow_id = flow_id or os.environ.get("FLOW_ID", "")
        self.socket_path = socket_path or ("" if url else os.environ.get("FLOW_SOCKET", ""))
        self.url = "" if self.socket_path else url or os.environ.get("FLOW_URL", "")
        if not self.socket_path and not self.url:
            raise RuntimeError(
                "FLOW_SOCKET is not set, nor FLOW_URL: this program is meant to be run by a flow manager"
            )
        self._token = token or os.environ.get("FLOW_TOKEN", "")
        self._address: Tuple[str, int] = ("", 0)
        self._tls: Any = None
        if self.url:
            self._address = _address(self.url)
            if not self.flow_id or not self._token:
                raise RuntimeError("FLOW_URL is set, and FLOW_ID or FLOW_TOKEN is not: this flow has nothing to show")
            self._tls = _tls_context(ca or os.environ.get("FLOW_CA", ""))
        self._limit = buffer
        self._on_message: Optional[Callable[[Any], Any]] = None
        self._on_stopping: Optional[Callable[[float], Any]] = None
        # Guards all below. What it protects is short; nothing is called and nothing blocks while it is held.
        self._lock = threading.Lock()
        # Not yet on a connection: (line, id of a message that will be acknowledged, connection that it is bound to).
        self._outgoing: Deque[Tuple[bytes, Optional[str], Optional[int]]] = collections.deque()
        # Sent and not acknowledged: sent once more after a reconnect, so that a restart of the manager loses nothing.
        self._unacknowledged: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        self._waiting_bytes = 0
        self._is_ready = False
        self._busy_until = 0.0
        self._busy_reason: Optional[str] = None
        self._connection = 0
        # Lines go out; and: the manager is known to take them.
        self._talking = False
        self._connected = threading.Event()
        # The last try was refused; and it was told on standard error.
        self._refused = False
        self._refusal_told = False
        # Messages for `run`: (connection, frame).
        self._incoming: Deque[Tuple[int, Dict[str, Any]]] = collections.deque()
        self._has_incoming = threading.Condition(self._lock)
        # `run` is to return; the connection is to end. In this order, so that the reply under way still gets out.
        self._stop = False
        self._ending = False
        self._stopping_told = False
        self._thread: Optional[threading.Thread] = None
        # The thread sleeps on its sockets; a byte on this pair wakes it. Non-blocking: a full pair will wake it anyway.
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)

    # --- what the program says ----------------------------------------------------------------------------------------

    def on_message(self, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Decorator: `handler(body)` is called for each message; what it returns is the reply.

        What it raises becomes the reply `{"error": "…"}`; the flow goes on.
        """
        self._on_message = handler
        return handler

    def on_stopping(self, handler: Callable[[float], Any]) -> Callable[[float], Any]:
        """Decorator: `handler(seconds)` is called once, in a thread of its own, when the flow is about to be ended."""
        self._on_stopping = handler
        return handler

    def send(self, body: Any) -> str:
        """Send a message; gives its id. It is sent again after a reconnect until the manager has acknowledged it.

        Raises BufferFull, FrameTooLarge, and ValueError or TypeError for what is no JSON.
        """
        message_id = uuid.uuid4().hex
        self._put({"type": "message", "id": message_id, "body": body}, message_id)
        return message_id

    def event(self, actor: str, event: str, **details: Any) -> None:
        """Tell that something happened: an entry in the activity that users see. Raises as `send` does."""
        self._put({"type": "actor_event", "actor": actor, "event": event, "details": details}, None)

    def ready(self) -> None:
        """The flow can be used. Said again by itself after a reconnect."""
        with self._lock:
            self._is_ready = True
        self._put_state({"type": "ready"})

    def busy(self, seconds: float, reason: Optional[str] = None) -> None:
        """Keep the flow awake for so long, or until `idle`."""
        with self._lock:
            self._busy_until = time.monotonic() + seconds
            self._busy_reason = reason
        self._put_state(_busy(seconds, reason))

    def idle(self) -> None:
        """Not busy any more."""
        with self._lock:
            self._busy_until = 0.0
        self._put_state({"type": "idle"})

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    def wait_connected(self, timeout: Optional[float] = None) -> bool:
        """Start where that was not done, and wait for a connection."""
        self.start()
        return self._connected.wait(timeout)

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect in the background and keep connected. `run` does it by itself."""
        with self._lock:
            if self._thread is not None or self._ending:
                return
            self._thread = threading.Thread(target=self._keep_connected, name="flow-sdk", daemon=True)
            self._thread.start()

    def run(self) -> None:
        """Handle messages until `close`, SIGTERM or SIGINT; then send what is left and close.

        Signals are caught only where `run` is called in the main thread, as Python demands.
        """
        self.start()
        former = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                former[number] = signal.signal(number, self._on_signal)
        try:
            while True:
                with self._has_incoming:
                    # A bounded wait: on some systems a signal does not end an unbounded one.
                    while not self._incoming and not self._stop:
                        self._has_incoming.wait(1.0)
                    if self._stop:
                        break
                    was_full = len(self._incoming) >= MAX_INCOMING
                    connection, frame = self._incoming.popleft()
                if was_full:
                    self._wake()
                self._handle(connection, frame)
            if self._on_stopping is not None and not self._stopping_told:
                self._stopping_told = True
                self._on_stopping(0)
        finally:
            self.close()
            for number, handler in former.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Send what is left, for at most two seconds, and close. `run` returns."""
        self._stop = True
        self._ending = True
        self._wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(FLUSH_TIMEOUT + 1.0)
        if thread is None or not thread.is_alive():
            self._wake_in.close()
            self._wake_out.close()

    # --- in the thread of `run` ---------------------------------------------------------------------------------------

    def _on_signal(self, _number: int, _frame: Any) -> None:
        # In a signal handler no lock may be taken: the thread that it interrupts may hold it.
        self._stop = True
        self._wake()

    def _handle(self, connection: int, frame: Dict[str, Any]) -> None:
        if self._on_message is None:
            reply: Any = {"error": "this flow takes no messages"}
        else:
            try:
                reply = self._on_message(frame.get("body"))
            except Exception as exc:
                traceback.print_exc()
                reply = {"error": "%s: %s" % (type(exc).__name__, exc)}
        to = frame.get("id")
        try:
            line = _encode({"type": "reply", "to": to, "body": reply})
        except (TypeError, ValueError) as exc:
            traceback.print_exc()
            line = _encode({"type": "reply", "to": to, "body": {"error": "%s: %s" % (type(exc).__name__, exc)}})
        with self._lock:
            # Nobody waits any more for the reply to what came over an older connection.
            if connection == self._connection:
                self._outgoing.append((line, None, connection))
                self._waiting_bytes += len(line)
        self._wake()

    # --- towards the connection ---------------------------------------------------------------------------------------

    def _put(self, frame: Dict[str, Any], message_id: Optional[str]) -> None:
        line = _encode(frame)
        with self._lock:
            if self._waiting_bytes + len(line) > self._limit:
                raise BufferFull("%d bytes wait to be sent already" % self._waiting_bytes)
            self._outgoing.append((line, message_id, None))
            self._waiting_bytes += len(line)
        self._wake()

    def _put_state(self, frame: Dict[str, Any]) -> None:
        # Away from the manager nothing is queued: at the next connection the state as it then is, is told.
        with self._lock:
            if self._talking:
                line = _encode(frame)
                self._outgoing.append((line, None, self._connection))
                self._waiting_bytes += len(line)
        self._wake()

    def _wake(self) -> None:
        try:
            self._wake_in.send(b"\0")
        except OSError:
            pass  # full, so it wakes anyway; or closed, so there is nobody to wake

    # --- the thread that keeps the connection -------------------------------------------------------------------------

    def _keep_connected(self) -> None:
        delay = FIRST_DELAY
        while not self._ending:
            began = time.monotonic()
            self._refused = False
            try:
                self._one_connection()
            except OSError as exc:
                # Else the manager is away, or went away: that is what the next try is for.
                if type(exc).__name__ == "SSLCertVerificationError":
                    self._tell_refusal("its certificate is not trusted: %s" % getattr(exc, "verify_message", exc))
            except Exception:
                traceback.print_exc()
            finally:
                with self._lock:
                    self._talking = False
                    self._connected.clear()
            if self._ending:
                break
            if time.monotonic() - began > LONGEST_DELAY:
                delay = FIRST_DELAY
            self._sleep(delay * random.uniform(0.8, 1.2))
            delay = min(delay * 2, REFUSED_DELAY if self._refused else LONGEST_DELAY)
        with self._has_incoming:
            self._has_incoming.notify_all()

    def _sleep(self, seconds: float) -> None:
        # On the wake-up pair, so that `close` ends it; what was sent meanwhile does not.
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_out, selectors.EVENT_READ)
            while not self._ending:
                remaining = until - time.monotonic()
                if remaining <= 0:
                    return
                if selector.select(remaining):
                    self._drain_wakes()

    def _drain_wakes(self) -> None:
        try:
            while self._wake_out.recv(4096):
                pass
        except OSError:
            pass
        if self._stop:
            # Asked for by a signal, whose handler could not do this itself.
            with self._has_incoming:
                self._has_incoming.notify_all()

    def _one_connection(self) -> None:
        with self._connect() as connection:
            connection.setblocking(False)
            with selectors.DefaultSelector() as selector:
                selector.register(self._wake_out, selectors.EVENT_READ)
                self._talk(connection, selector, self._begin())
            if self.url:
                self._say_goodbye(connection)

    def _connect(self) -> socket.socket:
        if not self.url:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(CONNECT_TIMEOUT)
                connection.connect(self.socket_path)
            except BaseException:
                connection.close()
                raise
            return connection
        connection = socket.create_connection(self._address, CONNECT_TIMEOUT)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in KEEPALIVE:
                if hasattr(socket, name):
                    connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            # The certificate is judged here: the token is not shown to anybody else.
            wrapped: socket.socket = self._tls.wrap_socket(connection, server_hostname=self._address[0])
            return wrapped
        except BaseException:
            connection.close()
            raise

    def _say_goodbye(self, connection: socket.socket) -> None:
        # Closed with something unread, the socket would send a reset, which may overtake what was sent last.
        connection.settimeout(GOODBYE_TIMEOUT)
        try:
            connection.shutdown(socket.SHUT_WR)
            until = time.monotonic() + GOODBYE_TIMEOUT
            while connection.recv(65536) and time.monotonic() < until:
                pass
        except OSError:
            pass

    def _begin(self) -> bytearray:
        """Hello, the state, and what the last connection left unacknowledged."""
        hello: Dict[str, Any] = {"type": "hello", "contract": CONTRACT, "acks": True}
        if self.url:
            hello.update(flow_id=self.flow_id, token=self._token)
        lines = [_encode(hello)]
        if self.url:
            # Its answer says that the token was right.
            lines.append(_encode({"type": "ping"}))
        with self._lock:
            self._connection += 1
            if self._is_ready:
                lines.append(_encode({"type": "ready"}))
            remaining = self._busy_until - time.monotonic()
            if remaining > 0:
                lines.append(_encode(_busy(remaining, self._busy_reason)))
            lines.extend(self._unacknowledged.values())
            self._talking = True
            if not self.url:
                self._connected.set()
        return bytearray(b"".join(lines))

    def _talk(self, connection: socket.socket, selector: selectors.BaseSelector, pending: bytearray) -> None:
        received = bytearray()
        flush_until: Optional[float] = None
        watched = 0
        while True:
            self._collect(pending)
            if self._ending:
                flush_until = flush_until or time.monotonic() + FLUSH_TIMEOUT
                if not pending or time.monotonic() >= flush_until:
                    return
            wanted = selectors.EVENT_WRITE if pending else 0
            if len(self._incoming) < MAX_INCOMING:
                wanted |= selectors.EVENT_READ
            if wanted != watched:
                # A selector takes no empty mask: with nothing to do, the socket is taken out of it.
                if watched:
                    selector.unregister(connection)
                if wanted:
                    selector.register(connection, wanted)
                watched = wanted
            for key, events in selector.select(0.2 if flush_until else None):
                if key.fileobj is self._wake_out:
                    self._drain_wakes()
                    continue
                if events & selectors.EVENT_WRITE:
                    del pending[: self._send(connection, pending)]
                if events & selectors.EVENT_READ and not self._read(connection, received, pending):
                    return

    def _send(self, connection: socket.socket, pending: bytearray) -> int:
        try:
            return connection.send(pending if not self.url else bytes(pending[:RECORD]))
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            if _would_block(exc):
                return 0
            raise

    def _read(self, connection: socket.socket, received: bytearray, pending: bytearray) -> bool:
        """Take what is there; False at the end."""
        while True:
            try:
                piece = connection.recv(65536)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError as exc:
                if _would_block(exc):
                    return True
                raise
            if not piece:
                return False
            self._received(piece, received, pending)
            # What TLS has unpacked already, no selector tells of.
            if not self.url or not connection.pending():  # type: ignore[attr-defined]
                return True

    def _collect(self, pending: bytearray) -> None:
        """Move what is to be sent to the connection, as far as it keeps up."""
        with self._lock:
            while self._outgoing and len(pending) < 65536:
                line, message_id, bound_to = self._outgoing.popleft()
                if bound_to is not None and bound_to != self._connection:
                    self._waiting_bytes -= len(line)
                    continue
                pending += line
                if message_id is None:
                    self._waiting_bytes -= len(line)
                else:
                    self._unacknowledged[message_id] = line

    def _received(self, piece: bytes, received: bytearray, pending: bytearray) -> None:
        received += piece
        if b"\n" not in piece:
            return
        lines = bytes(received).split(b"\n")
        received[:] = lines.pop()
        for line in lines:
            try:
                frame = json.loads(line.decode("utf-8"))
            except ValueError:
                continue
            if isinstance(frame, dict):
                self._frame(frame, pending)

    def _frame(self, frame: Dict[str, Any], pending: bytearray) -> None:
        kind = frame.get("type")
        if kind != "error" and not self._connected.is_set():
            self._refusal_told = False
            self._connected.set()
        if kind == "message":
            # Acknowledged when it is here, not when it is handled: a handler may take its time.
            pending += _encode({"type": "ack", "to": frame.get("id")})
            with self._has_incoming:
                self._incoming.append((self._connection, frame))
                self._has_incoming.notify()
        elif kind == "ack":
            with self._lock:
                line = self._unacknowledged.pop(frame.get("to") or "", None)
                if line is not None:
                    self._waiting_bytes -= len(line)
        elif kind == "ping":
            pending += _encode({"type": "pong"})
        elif kind == "stopping":
            self._tell_stopping(frame.get("in") or 0)
        elif kind == "error" and frame.get("code") == "unauthorized":
            self._tell_refusal(frame.get("reason", "unauthorized"))
        elif kind == "error" and frame.get("code") not in ("unknown_message", "taken_over"):
            sys.stderr.write("flow-sdk: the manager says %s: %s\n" % (frame.get("code"), frame.get("reason", "")))

    def _tell_refusal(self, reason: str) -> None:
        # Tried again, since a manager that has just started may not know its flows yet; told once.
        self._refused = True
        if not self._refusal_told:
            self._refusal_told = True
            sys.stderr.write("flow-sdk: no connection to %s: %s\n" % (self.url, reason))

    def _tell_stopping(self, seconds: float) -> None:
        if self._on_stopping is not None and not self._stopping_told:
            self._stopping_told = True
            threading.Thread(target=self._on_stopping, args=(seconds,), name="flow-sdk-stopping", daemon=True).start()


def _address(url: str) -> Tuple[str, int]:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme != "tls":
        raise RuntimeError("FLOW_URL is not tls://host:port: %r" % url)
    return host, port


def _tls_context(ca: str) -> Any:
    import ssl  # some small Pythons lack it, and most flows don't need it

    try:
        trusted: Any = ca if "-----BEGIN" in ca else base64.b64decode(ca, validate=True)
        context = ssl.create_default_context(cadata=trusted or None)
    except (ValueError, OSError):
        raise RuntimeError("FLOW_CA is neither PEM nor the base64 of a certificate") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _would_block(exc: OSError) -> bool:
    return type(exc).__name__ in ("SSLWantReadError", "SSLWantWriteError")


def _busy(seconds: float, reason: Optional[str]) -> Dict[str, Any]:
    frame: Dict[str, Any] = {"type": "busy", "for": seconds}
    if reason is not None:
        frame["reason"] = reason
    return frame


def _encode(frame: Dict[str, Any]) -> bytes:
    line = json.dumps(frame, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8") + b"\n"
    if len(line) > MAX_LINE:
        raise FrameTooLarge("a line of %d bytes; %d are allowed" % (len(line), MAX_LINE))
    return line
