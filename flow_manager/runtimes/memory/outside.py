"""What happens to memory flows without the service: they die, somebody stops, makes or removes them by hand."""

from __future__ import annotations

from collections.abc import Mapping

from flow_manager.runtimes.base import LABEL_ENABLE, FlowSpec, PortBinding
from flow_manager.runtimes.memory.engine import MemoryEngine
from flow_manager.util.ids import derived_flow_id


class Outside:
    """Base of MemoryRuntime, which has the rest."""

    name: str
    engine: MemoryEngine
    _instance: str

    def die(self, id: str, code: int | None = 137, *, cause: str = "exit") -> None:
        """The flow ends, and nobody asked for it. `cause`: exit or oom."""
        self.engine.flows[id].die(code, cause=cause)

    def outside_stop(self, id: str, code: int | None = 143) -> None:
        """A person ends it by hand, as with `docker stop`."""
        self.engine.flows[id].die(code, cause="stop")

    def appear(
        self,
        name: str,
        labels: Mapping[str, str],
        *,
        running: bool = True,
        environment: Mapping[str, str] | None = None,
        ports: tuple[PortBinding, ...] = (),
        command: tuple[str, ...] = ("sleep",),
        enabled: bool = True,
    ) -> str:
        """Somebody else makes a container, to be adopted; or makes the one of this name anew. Gives the flow's id.

        `enabled`: with the label that asks for it.
        """
        flow_id = derived_flow_id(self.name, name)
        flow = self.engine.appear(
            FlowSpec(
                id=flow_id,
                name=name,
                container_name=name,
                tenant="",
                instance=self._instance,
                image="memory",
                command=command,
                environment=dict(environment or {}),
                ports=ports,
                labels={**({LABEL_ENABLE: "true"} if enabled else {}), **labels},
            )
        )
        if running:
            flow.start()
        return flow_id

    def vanish(self, id: str) -> None:
        """Somebody removes it behind our back."""
        self.engine.remove(id)
