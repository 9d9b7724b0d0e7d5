from __future__ import annotations

from tests.unit.idle.conftest import idle_builder, idle_house

__all__ = ["idle_builder", "idle_house"]
