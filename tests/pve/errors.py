"""How a Proxmox VE server says no: a status, a line of text that is body and reason phrase, perhaps errors by field."""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """An answer other than 200. With `empty` the text stands in the status line alone, as a 401 and a 595 have it."""

    def __init__(
        self, status: int, message: str, *, errors: Mapping[str, str] | None = None, empty: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.errors = dict(errors) if errors else None
        self.empty = empty


class TaskFailed(Exception):
    """A worker that died: its text is the exit status of the task."""


def refused(errors: Mapping[str, str]) -> ApiError:
    return ApiError(400, "Parameter verification failed.", errors=errors)


def forbidden(what: str) -> ApiError:
    return ApiError(403, f"Permission check failed ({what})")


def died(text: str) -> ApiError:
    """Every `die` in a handler."""
    return ApiError(500, text)


def unauthorized(reason: str) -> ApiError:
    return ApiError(401, reason, empty=True)


def not_implemented(method: str, path: str) -> ApiError:
    return ApiError(501, f"Method '{method} {path}' not implemented")
