"""Public fakes and helpers, for users' tests and our own: a runtime without an engine that fails on demand, a clock that
is moved by hand, and waiting with a deadline."""

from flow_manager.runtimes.memory import Faults, MemoryEngine, MemoryRuntime
from flow_manager.testing.clock import FakeClock
from flow_manager.testing.waiting import eventually

__all__ = ["FakeClock", "Faults", "MemoryEngine", "MemoryRuntime", "eventually"]
