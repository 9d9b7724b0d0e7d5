"""Keeping secrets out of what people, clients and logs see. Pure: text and JSON data in, the same masked out.

Two ways, together: by name (`DB_PASSWORD`, `apiKey`: whatever stands there is masked), and by value (what was once known
as a secret is masked wherever it turns up, in a flow's message as well as in an engine's error text).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

from flow_manager.activity.alike import Alike

MASK = "***"
# Shorter values ("test", "admin") would mask half of every text without hiding anything.
MIN_SECRET_LENGTH = 6
# A longer name is none that a person gave: it is not remembered (4,096 keys of a message that has a megabyte each would be
# four gigabytes), nor divided into words.
MAX_NAME = 256
# A key of several lines has some dozens. Each line is looked for by itself.
MAX_LINES = 500
# So many known forms that begin alike are tried in turn; more have a table.
FEW = 16
# Deeper data is cut off there: one more than what the strict codec takes would make an entry that no client can read.
MAX_DEPTH = 24

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# `scheme://user:password@host`, in running text too; the password may hold "@" only where no "/" comes before the last.
# Of the scheme its last character is enough: a scheme of any length, tried from each letter on, costs the square of a long
# word's length, and the text is anybody's.
_URL_PASSWORD = re.compile(r"(?P<before>[A-Za-z0-9+.-]://[^\s/?#:@]*:)(?P<password>[^\s/?#]+)(?=@)")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# Three characters, and one is left out: of every six in a row that are somewhere in a text, three are found together.
_EVERY_FOURTH = re.compile("(...).?", re.DOTALL)

_SECRET_WORDS = frozenset(
    [
        "PASSWORD",
        "PASSWORDS",
        "PASSWD",
        "PASSPHRASE",
        "PASS",
        "SECRET",
        "SECRETS",
        "TOKEN",
        "TOKENS",
        "APIKEY",
        "APIKEYS",
        "CREDENTIAL",
        "CREDENTIALS",
        "CREDS",
        "AUTH",
        "AUTHORIZATION",
        "BEARER",
        "COOKIE",
        "COOKIES",
        "PRIVATEKEY",
        "ACCESSKEY",
        "SECRETKEY",
        "JWT",
    ]
)
# One word without a seam, as in PGPASSWORD, GHTOKEN or MYAPIKEY.
_SECRET_ENDINGS = ("PASSWORD", "PASSWD", "SECRET", "TOKEN", "APIKEY", "PRIVATEKEY", "PASSPHRASE")
# A name that ends in KEY (STRIPE_KEY, APP_KEY) holds a secret, unless the word before says what else it is.
_HARMLESS_KEYS = frozenset(
    ["PUBLIC", "PRIMARY", "FOREIGN", "SORT", "PARTITION", "CACHE", "HOT", "REQUEST", "INDEX", "ROUTING", "GROUP"]
)
# These hide something only where another word stands before them: PWD alone is the working folder.
_SECRET_AS_LAST = frozenset({"PWD", "KEY", "KEYS"})
_SECRET_PAIRS = frozenset(
    {
        ("API", "KEY"),
        ("PRIVATE", "KEY"),
        ("SECRET", "KEY"),
        ("ACCESS", "KEY"),
        ("SIGNING", "KEY"),
        ("ENCRYPTION", "KEY"),
    }
)


def looks_secret(name: str) -> bool:
    """Whether what stands under this name is a secret. Word by word: AUTHOR and KEYBOARD are none, but past `MAX_NAME`."""
    if len(name) > MAX_NAME:
        upper = name.upper()
        return any(word in upper for word in _SECRET_WORDS)
    return _looks_secret(name)


@lru_cache(maxsize=4096)
def _looks_secret(name: str) -> bool:
    words = [word.upper() for word in _WORD.findall(name)]
    if any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDINGS) for word in words):
        return True
    if any(pair in _SECRET_PAIRS for pair in pairwise(words)):
        return True
    return len(words) > 1 and words[-1] in _SECRET_AS_LAST and words[-2] not in _HARMLESS_KEYS


def mask_url_passwords(text: str) -> str:
    """`postgres://app:hunter2@db/x` → `postgres://app:***@db/x`."""
    return _URL_PASSWORD.sub(rf"\g<before>{MASK}", text) if "://" in text else text


def secrets_of_environment(environment: Mapping[str, str]) -> Iterator[str]:
    """The values among a flow's variables that must not be seen: whole ones, and passwords inside URLs."""
    for name, value in environment.items():
        if looks_secret(name):
            yield value
        for match in _URL_PASSWORD.finditer(value):
            yield match["password"]


class Masker:
    """Masks. Knows the values that were given to it, as often as they were: each must be taken back as often.

    Looking for values costs one dictionary look-up a character, however many are known, and nothing has to be rebuilt: a
    compiled alternation of 1,500 values is six times slower to search, and takes 40 ms to make after each new flow again.
    Reading from another thread (the log's writer) is safe: what is looked up is replaced, never changed.
    """

    def __init__(self) -> None:
        self._given: Counter[str] = Counter()
        # How many of the given values may turn up in this form: two can share one.
        self._uses: Counter[str] = Counter()
        # The first characters of each known form → the forms that begin so: a few, longest first, or many.
        self._forms: dict[str, tuple[str, ...] | Alike] = {}
        # The four groups of three characters in each of those heads, and how many heads have them: a text without any of
        # them holds no known value. Ten times faster than looking at each character, and most lines of a log have none.
        self._hints: Counter[str] = Counter()

    def add_secret(self, value: str) -> None:
        """From now on masked wherever it stands. Values under six characters are not looked for."""
        self._given[value] += 1
        if self._given[value] == 1:
            for form in _forms_of(value):
                self._uses[form] += 1
                if self._uses[form] == 1:
                    self._know(form)

    def remove_secret(self, value: str) -> None:
        """Take one `add_secret` back; a value that was not given is ignored."""
        if self._given[value] > 1:
            self._given[value] -= 1
            return
        if self._given.pop(value, 0) == 0:
            return
        for form in _forms_of(value):
            self._uses[form] -= 1
            if self._uses[form] <= 0:
                del self._uses[form]
                self._forget(form)

    def add_environment(self, environment: Mapping[str, str]) -> None:
        """Know the secrets among a flow's variables, until `remove_environment`."""
        for value in secrets_of_environment(environment):
            self.add_secret(value)

    def remove_environment(self, environment: Mapping[str, str]) -> None:
        for value in secrets_of_environment(environment):
            self.remove_secret(value)

    def mask_text(self, text: str) -> str:
        """Known values and passwords in URLs are masked; lone surrogates, which no UTF-8 can carry, become U+FFFD."""
        if not text.isascii() and _LONE_SURROGATE.search(text):
            text = _LONE_SURROGATE.sub("\ufffd", text)
        return mask_url_passwords(self._mask_values(text))

    def mask(self, data: Any) -> Any:
        """A masked copy, plain JSON data whatever comes in: what JSON can't say becomes text or null."""
        return self._mask(data, 0)

    def mask_environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """For display: values under secret names as `***` (empty ones stay empty), the others as `mask_text` gives them."""
        return {
            name: (MASK if value else "") if looks_secret(name) else self.mask_text(value)
            for name, value in environment.items()
        }

    def _know(self, form: str) -> None:
        head = form[:MIN_SECRET_LENGTH]
        known = self._forms.get(head, ())
        if not known:
            self._hints.update(_hints_of(head))
        if isinstance(known, Alike):
            known.add(form)
        elif len(known) < FEW:
            self._forms[head] = tuple(sorted((*known, form), key=len, reverse=True))
        else:
            self._forms[head] = Alike((*known, form))

    def _forget(self, form: str) -> None:
        head = form[:MIN_SECRET_LENGTH]
        known = self._forms[head]
        if isinstance(known, Alike):
            known.remove(form)
            if known.forms:
                return
        elif left := tuple(other for other in known if other != form):
            self._forms[head] = left
            return
        del self._forms[head]
        for hint in _hints_of(head):
            self._hints[hint] -= 1
            if not self._hints[hint]:
                del self._hints[hint]

    def _mask(self, data: Any, depth: int) -> Any:
        if data is None or isinstance(data, bool):
            return data
        if isinstance(data, str):
            return self.mask_text(data)
        if isinstance(data, int):
            # Past this a JavaScript client would silently read another number.
            return int(data) if -(2**53) < data < 2**53 else str(data)
        if isinstance(data, float):
            return data if math.isfinite(data) else None
        if depth >= MAX_DEPTH:
            return "…"
        if isinstance(data, Mapping):
            return {
                self.mask_text(str(key)): self._mask_under(str(key), value, depth + 1) for key, value in data.items()
            }
        if isinstance(data, list | tuple | set | frozenset):
            return [self._mask(item, depth + 1) for item in data]
        return self.mask_text(str(data))

    def _mask_under(self, key: str, value: Any, depth: int) -> Any:
        # A number is a count far more often than a secret: "tokens": 12 is what every language model's flow reports.
        if value is None or isinstance(value, bool | int | float) or value == "" or not looks_secret(key):
            return self._mask(value, depth)
        return MASK

    def _mask_values(self, text: str) -> str:
        forms = self._forms
        if not forms or len(text) < MIN_SECRET_LENGTH:
            return text
        if self._hints.keys().isdisjoint(_EVERY_FOURTH.findall(text)):
            return text
        pieces: list[str] = []
        kept = position = 0
        last = len(text) - MIN_SECRET_LENGTH
        while position <= last:
            candidates = forms.get(text[position : position + MIN_SECRET_LENGTH])
            length = 0 if candidates is None else _found(candidates, text, position)
            if length:
                pieces.append(text[kept:position])
                pieces.append(MASK)
                kept = position = position + length
            else:
                position += 1
        if not pieces:
            return text
        pieces.append(text[kept:])
        return "".join(pieces)


def _hints_of(head: str) -> list[str]:
    return [head[place : place + 3] for place in range(MIN_SECRET_LENGTH - 2)]


def _found(candidates: tuple[str, ...] | Alike, text: str, position: int) -> int:
    """How long the longest of them is that stands there; 0: none."""
    if isinstance(candidates, Alike):
        return candidates.found(text, position)
    for form in candidates:
        if text.startswith(form, position):
            return len(form)
    return 0


def _forms_of(value: str) -> set[str]:
    """As it may turn up: itself, line by line (a key of several lines in a log), inside JSON text, out of a URL; without the
    newline that files end with. Of the lines the first `MAX_LINES`."""
    plain = value.strip()
    if plain.isascii() and plain.isalnum():  # nearly every token: it looks the same everywhere
        return {plain} if len(plain) >= MIN_SECRET_LENGTH else set()
    lines = [line.strip() for line in plain.splitlines()[:MAX_LINES]]
    forms = {plain, *lines, json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1], unquote(plain)}
    return {form for form in forms if len(form) >= MIN_SECRET_LENGTH}
