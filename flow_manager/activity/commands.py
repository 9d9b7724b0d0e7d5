"""A command line as people may see it. Pure.

What is known as a secret is masked by its value; here goes what only its place tells: `--password=x`, `--token x`,
`PGPASSWORD=x psql` also inside a shell's text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from flow_manager.activity.redact import MASK, Masker, looks_secret

# NAME=value up to the next blank, or its quoted value; a name may have dashes before it. Looked for at the beginning of each
# word alone: from each of its letters on, a long word without "=" would cost its square.
_ASSIGNED = re.compile(
    r"""(?<![A-Za-z0-9_.-])(?P<name>[A-Za-z0-9_.-]+)(?P<is>=)(?P<value>"[^"]*"|'[^']*'|[^\s"';|&]+)"""
)
_FLAG = re.compile(r"--?[A-Za-z][A-Za-z0-9_.-]*\Z")
# Of one argument: a script of a hundred kilobytes is nobody's log entry, and takes time to look through.
MAX_ARGUMENT = 2000


def masked_command(argv: Sequence[str], masker: Masker) -> list[str]:
    """The words of a command without its secrets, each cut to `MAX_ARGUMENT` characters."""
    shown: list[str] = []
    hide_next = False
    for word in argv:
        if hide_next and not word.startswith("-"):
            shown.append(MASK)
            hide_next = False
            continue
        hide_next = _FLAG.match(word) is not None and looks_secret(word)
        # Masked before it is cut, so that no half of a secret stays at the cut.
        plain = masker.mask_text(_ASSIGNED.sub(_masked, word[: 4 * MAX_ARGUMENT]))
        shown.append(plain if len(plain) <= MAX_ARGUMENT else plain[: MAX_ARGUMENT - 1] + "…")
    return shown


def in_one_line(argv: Sequence[str], limit: int) -> str:
    """As one would type it, cut to `limit` characters."""
    line = shlex.join(argv)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _masked(found: re.Match[str]) -> str:
    return f"{found['name']}={MASK}" if looks_secret(found["name"]) else found[0]
