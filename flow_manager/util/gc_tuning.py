"""The garbage collector, told what a long-running service knows: most of what exists after the start stays for ever.

Measured on an event server: 12 to 17 % of its CPU time is the collector walking objects that never die.
"""

from __future__ import annotations

import gc

# The first generation is looked at after this many new objects (the default, 700, is reached every few dozen events);
# older generations seldom, because what survives there is connections and flows.
YOUNG = 50_000
MIDDLE = 20
OLD = 50


def tune_gc() -> None:
    """Call once, after the start: what exists now is set aside, and collections become rarer. Cyclic rubbish is still found."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
