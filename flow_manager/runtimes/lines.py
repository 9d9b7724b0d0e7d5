"""From bytes to lines: invalid UTF-8 becomes U+FFFD, and a line that never ends is given in pieces. Pure."""

from __future__ import annotations

# Bytes of one line. A longer one comes as several, so that it fills neither the memory nor a client's event.
MAX_LINE = 64 * 1024


def decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def cut(raw: bytes | bytearray) -> int:
    """Where the first piece of a longer line ends: at most `MAX_LINE`, and not inside a character."""
    place = MAX_LINE
    # A character has at most four bytes, whose later ones begin with the bits 10 (RFC 3629).
    while place > MAX_LINE - 3 and raw[place] & 0xC0 == 0x80:
        place -= 1
    return place


def pieces(raw: bytes) -> list[str]:
    """One line as it is, a longer one in pieces."""
    found: list[str] = []
    while len(raw) > MAX_LINE:
        place = cut(raw)
        found.append(decoded(raw[:place]))
        raw = raw[place:]
    found.append(decoded(raw))
    return found
