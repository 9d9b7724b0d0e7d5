"""The runtime `memory`: flows that are a few objects, for tests and benchmarks; public, for users' own tests, too.

It keeps every promise of `flow_manager.runtimes.base` (the contract suite holds it to them), runs no program and no image,
and fails when told to: see `Faults`. What a flow does is its command's first word: see `programs`.
"""

from flow_manager.runtimes.memory.engine import MemoryEngine
from flow_manager.runtimes.memory.faults import Faults
from flow_manager.runtimes.memory.runtime import MemoryRuntime

__all__ = ["Faults", "MemoryEngine", "MemoryRuntime"]
