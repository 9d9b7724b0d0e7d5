"""Many known values that begin alike: the tokens of ten thousand flows may all begin with `sk-live-`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class Alike:
    """Finding one costs a look-up for each length that there is, however many there are.

    Another thread may look meanwhile: `forms` is changed by single steps alone, `_lengths` is replaced.
    """

    __slots__ = ("_counts", "_lengths", "forms")

    def __init__(self, forms: Iterable[str]) -> None:
        self.forms: set[str] = set()
        self._counts: Counter[int] = Counter()
        self._lengths: tuple[int, ...] = ()  # longest first
        for form in forms:
            self.add(form)

    def add(self, form: str) -> None:
        if form in self.forms:
            return
        self.forms.add(form)
        self._counts[len(form)] += 1
        if self._counts[len(form)] == 1:
            self._lengths = tuple(sorted(self._counts, reverse=True))

    def remove(self, form: str) -> None:
        if form not in self.forms:
            return
        self.forms.discard(form)
        self._counts[len(form)] -= 1
        if not self._counts[len(form)]:
            del self._counts[len(form)]
            self._lengths = tuple(sorted(self._counts, reverse=True))

    def found(self, text: str, position: int) -> int:
        """How long the longest one is that stands there; 0: none."""
        for length in self._lengths:
            piece = text[position : position + length]
            if piece in self.forms:
                return len(piece)
        return 0
