"""One record, one line: how a log record is written, as text or as JSON. Pure.

Whatever a client, a flow or an engine said stands in fields and is escaped: it can neither begin a line of its own (which
would read like a record that never was) nor steer the terminal of whoever reads the log.
"""

from __future__ import annotations

import re
import traceback
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

Format = Literal["text", "json"]

# C0 and C1 controls (ESC among them) and what else ends a line in some program: U+0085, U+2028, U+2029; also the marks
# that turn the reading direction, with which a line can be made to look like another.
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_ESCAPED |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_ESCAPED |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_SPECIAL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_NEEDS_QUOTES = re.compile(r'[\s"=]|^$')
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_FIELD = 4096
_MAX_TRACE = 16 * 1024


def clean(text: str) -> str:
    """Without anything that a terminal or a line reader would obey."""
    if text.isascii() and text.isprintable():
        return text
    return _LONE_SURROGATE.sub("\ufffd", text.translate(_ESCAPED))


def trace_of(error: BaseException | None) -> str | None:
    """The whole trace, without the values of variables (which loguru's `diagnose` would print: secrets)."""
    if error is None:
        return None
    text = "".join(traceback.format_exception(error)).rstrip()
    return text if len(text) <= _MAX_TRACE else text[: _MAX_TRACE // 2] + "\n…\n" + text[-_MAX_TRACE // 2 :]


def line_of(
    style: Format, *, at: datetime, level: str, message: str, fields: dict[str, Any], trace: str | None = None
) -> str:
    """The line without its end. As text a trace follows on lines of its own, each begun with `    | `."""
    moment = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    shown = {clean(key): _value_of(value) for key, value in fields.items() if value is not None}
    if style == "json":
        record: dict[str, Any] = {"time": moment, "level": level, "message": clean(message), **shown}
        if trace is not None:
            record["trace"] = [clean(line) for line in trace.split("\n")]
        return orjson.dumps(record).decode()
    parts = [moment, f"{level:<7}", clean(message), *(f"{key}={_quoted(value)}" for key, value in shown.items())]
    line = " ".join(parts)
    if trace is not None:
        line += "".join(f"\n    | {clean(part)}" for part in trace.split("\n"))
    return line


def _value_of(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if abs(value) < 1e15 else str(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    text = value if isinstance(value, str) else str(value)
    return clean(text if len(text) <= _MAX_FIELD else text[: _MAX_FIELD - 1] + "…")


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if not _NEEDS_QUOTES.search(text):
        return text
    return '"' + text.replace('"', '\\"') + '"'
