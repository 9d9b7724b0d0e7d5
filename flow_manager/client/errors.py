"""What can go wrong for a client: the service says no, or it can't be reached."""

from __future__ import annotations

from typing import Any


class ServiceRefused(Exception):
    """The service answered with an error object (wire contract, section 3), which is `error`."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.error = error
        self.code = str(error.get("code", "internal"))
        self.error_type = str(error.get("error_type", "system_error"))
        self.message = str(error.get("message", "the service gave no reason"))
        details = error.get("details")
        self.details: dict[str, Any] = details if isinstance(details, dict) else {}
        super().__init__(self.message)


class Unreachable(Exception):
    """No answer: nothing listens there, the connection was lost for too long, or a reply did not come in time."""


class ConnectionLost(Exception):
    """One connection ended before the reply came. Inside this package alone: the client connects again, or says Unreachable."""
