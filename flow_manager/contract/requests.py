"""What a client may send with each event (wire contract, section 4). Times are seconds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from flow_manager.contract.fields import CleanText, SignalName, no_control_characters, parse_port_key
from flow_manager.contract.models import ContainerConfig, ContainerState, IdlePolicy, WireModel

MAX_TIMEOUT = 600
Timeout = Annotated[float, Field(ge=0, le=MAX_TIMEOUT)]
RequestId = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(no_control_characters)]
ContainerRef = Annotated[str, Field(min_length=1, max_length=256)]
Signal = SignalName
Cursor = Annotated[int, Field(ge=0)]


class Mutation(WireModel):
    """`request_id`: the same id from the same principal within 24 h gives the first reply and does nothing twice."""

    request_id: RequestId | None = None


class CreateContainer(ContainerConfig, Mutation):
    start: bool = False

    @field_validator("ports")
    @classmethod
    def _each_port_once(cls, ports: dict[str, int]) -> dict[str, int]:
        """`80` and `80/tcp` are one port: of two wishes for it one would be dropped in silence."""
        seen: dict[tuple[int, str], str] = {}
        for key in ports:
            other = seen.setdefault(parse_port_key(key), key)
            if other != key:
                raise ValueError(f"'{other}' and '{key}' are the same port")
        return ports

    def config(self) -> ContainerConfig:
        return ContainerConfig.model_construct(**{name: getattr(self, name) for name in ContainerConfig.model_fields})


class OneContainer(WireModel):
    container_id: ContainerRef


class ChangeContainer(OneContainer, Mutation):
    pass


class StartContainer(ChangeContainer):
    wait: Literal["started", "ready"] = "started"


class StopContainer(ChangeContainer):
    signal: Signal | None = None
    timeout: Timeout | None = None


class RestartContainer(ChangeContainer):
    timeout: Timeout | None = None


class KillContainer(ChangeContainer):
    signal: Signal = "SIGKILL"


class WakeContainer(ChangeContainer):
    wait: bool = True


class SetIdlePolicy(ChangeContainer):
    idle: IdlePolicy


class DeleteContainer(ChangeContainer):
    force: bool = False


class ListContainers(WireModel):
    runtime: str | None = None
    state: ContainerState | None = None
    labels: dict[str, str] | None = None


class SendMessage(ChangeContainer):
    message: dict[str, Any]
    expect_reply: bool = False
    timeout: Timeout = 30
    wake: bool = False


class ActivityFilter(WireModel):
    container_id: ContainerRef | None = None
    types: list[CleanText] | None = None


class SubscribeActivity(ActivityFilter):
    after: Cursor | None = None
    stream: CleanText | None = None


class ListActivity(ActivityFilter):
    before: Cursor | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class Nothing(WireModel):
    pass
