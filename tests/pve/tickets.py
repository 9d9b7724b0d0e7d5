"""Tickets: what a login gives, for requests (`PVE:`, with a token against forged requests) and for consoles (`PVEVNC:`)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass

# A login lasts two hours; a console's ticket is for now.
LOGIN_SECONDS = 7200
CONSOLE_SECONDS = 40


@dataclass(frozen=True, slots=True)
class Tickets:
    key: bytes
    clock: Callable[[], float]
    life: float = LOGIN_SECONDS

    def _sign(self, text: str) -> str:
        return base64.b64encode(hmac.new(self.key, text.encode(), hashlib.sha256).digest()).decode().rstrip("=")

    def _fresh(self, stamp: str, life: float) -> bool:
        try:
            age = self.clock() - int(stamp, 16)
        except ValueError:
            return False
        return -300 < age < life

    def login(self, user: str) -> tuple[str, str]:
        """The ticket, and the token that goes with every request that changes something."""
        stamp = f"{int(self.clock()):08X}"
        return (
            f"PVE:{user}:{stamp}::{self._sign(f'PVE:{user}:{stamp}')}",
            f"{stamp}:{self._sign(f'CSRF:{user}:{stamp}')}",
        )

    def user_of(self, ticket: str) -> str | None:
        head, _, sign = ticket.partition("::")
        kind, _, rest = head.partition(":")
        user, _, stamp = rest.rpartition(":")
        good = kind == "PVE" and hmac.compare_digest(sign.encode(), self._sign(head).encode())
        return user if good and self._fresh(stamp, self.life) else None

    def csrf_is_good(self, token: str, user: str) -> bool:
        stamp, _, sign = token.partition(":")
        good = hmac.compare_digest(sign.encode(), self._sign(f"CSRF:{user}:{stamp}").encode())
        return good and self._fresh(stamp, self.life)

    def console(self, who: str, path: str) -> str:
        stamp = f"{int(self.clock()):08X}"
        return f"PVEVNC:{stamp}::{self._sign(f'PVEVNC:{stamp}:{who}:{path}')}"

    def console_is_good(self, ticket: str, who: str, path: str) -> bool:
        head, _, sign = ticket.partition("::")
        kind, _, stamp = head.partition(":")
        good = kind == "PVEVNC" and hmac.compare_digest(
            sign.encode(), self._sign(f"PVEVNC:{stamp}:{who}:{path}").encode()
        )
        return good and self._fresh(stamp, CONSOLE_SECONDS)
