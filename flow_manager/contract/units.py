"""Durations and sizes as people write them: `"5m"`, `"1h30m"`, `"256m"`. On the wire plain numbers are taken, too."""

from __future__ import annotations

import re
from typing import Any

_DURATION = re.compile(r"(?:(?P<d>[0-9]+)d)?(?:(?P<h>[0-9]+)h)?(?:(?P<m>[0-9]+)m)?(?:(?P<s>[0-9]+(?:\.[0-9]+)?)s?)?\Z")
_SIZE = re.compile(r"(?P<number>[0-9]+)\s*(?P<unit>[kmgt]?)i?b?\Z", re.IGNORECASE)
_SIZE_FACTOR = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_seconds(value: Any) -> Any:
    """`"1h30m"`, `"5m"`, `"10s"`, `"2d"` or `"15"` → seconds; whatever is not text is handed back for pydantic to judge."""
    if isinstance(value, bool) or not isinstance(value, str):
        return value
    match = _DURATION.match(value.strip())
    if match is None or not value.strip():
        raise ValueError("not a duration: '30s', '5m', '1h30m' or a number of seconds")
    factors = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(match[unit]) * factor for unit, factor in factors.items() if match[unit])


def parse_bytes(value: Any) -> Any:
    """`"256m"`, `"1g"`, `"64KiB"` → bytes (powers of 1024, as Docker reads them); other types are handed back."""
    if isinstance(value, bool) or not isinstance(value, str):
        return value
    match = _SIZE.match(value.strip())
    if match is None:
        raise ValueError("not a size: '256m', '1g' or a number of bytes")
    return int(match["number"]) * _SIZE_FACTOR[match["unit"].lower()]
