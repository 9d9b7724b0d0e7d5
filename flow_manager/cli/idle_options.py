"""An idle policy from options: when a flow sleeps, how it is put to sleep, and what its wake waits for. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

OPTIONS: dict[str, Any] = {
    "stop_method": Annotated[
        str | None, typer.Option("--stop-method", "--method", metavar="pause|stop|kill", help="How.")
    ],
    "stop_signal": Annotated[str | None, typer.Option("--stop-signal", metavar="SIGNAL", help="To ask it to end.")],
    "stop_timeout": Annotated[
        str | None,
        typer.Option("--stop-timeout", metavar="TIME", help="To end by itself before the kill; default: 10s."),
    ],
    "wake_timeout": Annotated[
        str | None, typer.Option("--wake-timeout", metavar="TIME", help="Until a wake has failed; default: 180s.")
    ],
    "depends_on": Annotated[
        list[str] | None,
        typer.Option(
            "--depends-on",
            metavar="FLOW[:CONDITION]",
            help="Woken first; started (default), healthy or completed; repeatable.",
        ),
    ],
    "ready_http": Annotated[
        str | None, typer.Option("--ready-http", metavar="PORT[/PATH]", help="Ready once this answers with 2xx or 3xx.")
    ],
    "ready_tcp": Annotated[int | None, typer.Option("--ready-tcp", metavar="PORT", help="Ready once this accepts.")],
    "ready_channel": Annotated[
        bool | None,
        typer.Option("--ready-channel/--no-ready-channel", help="Ready once it says so over its channel."),
    ],
    "ready_delay": Annotated[
        str | None, typer.Option("--ready-delay", metavar="TIME", help="Ready so long after it has started.")
    ],
    "start_endpoint": Annotated[
        str | None, typer.Option("--start-endpoint", metavar="PATH", help="Only requests below this path wake it.")
    ],
    "loading_page": Annotated[
        bool | None,
        typer.Option("--loading-page/--no-loading-page", help="Whether browsers see a page while it wakes."),
    ],
}
# In place of a verb's parameter of this name stand all the options above.
PLACE = "idle"


def takes_policy(verb: Callable[..., None]) -> Callable[..., None]:
    """`verb(…, idle)` gets what the options make; the command line sees the options themselves.

    `--idle-timeout` is the verb's own: what it says, and what it is called, differs from one to the other.
    """
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(verb, eval_str=True).parameters.values():
        options = OPTIONS if parameter.name == PLACE else {}
        parameters += [
            parameter.replace(name=name, annotation=annotation, default=None) for name, annotation in options.items()
        ] or [parameter]

    @wraps(verb)
    def call(**given: Any) -> None:
        options = {name: given.pop(name) for name in OPTIONS}
        verb(**{PLACE: policy(**options)}, **given)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def policy(
    *,
    stop_method: str | None,
    stop_signal: str | None,
    stop_timeout: str | None,
    wake_timeout: str | None,
    depends_on: list[str] | None,
    ready_http: str | None,
    ready_tcp: int | None,
    ready_channel: bool | None,
    ready_delay: str | None,
    start_endpoint: str | None,
    loading_page: bool | None,
) -> dict[str, Any]:
    """What was given, as an IdlePolicy's fields; times stay text, which the contract reads.

    :raises typer.BadParameter: for what can't be read.
    """
    ready: dict[str, Any] = {
        "http": http_readiness(ready_http) if ready_http is not None else None,
        "tcp": ready_tcp,
        "channel": ready_channel,
        "delay": ready_delay,
    }
    fields: dict[str, Any] = {
        "stop_method": stop_method,
        "stop_signal": stop_signal,
        "stop_timeout": stop_timeout,
        "wake_timeout": wake_timeout,
        "depends_on": [dependency(text) for text in depends_on] if depends_on else None,
        "start_endpoint": start_endpoint,
        "no_loading_page": None if loading_page is None else not loading_page,
        "ready": {key: value for key, value in ready.items() if value is not None} or None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def dependency(text: str) -> dict[str, str]:
    """`db` or `db:healthy`."""
    flow, separator, condition = text.rpartition(":")
    if not separator:
        return {"container": text}
    if not flow or condition not in ("started", "healthy", "completed"):
        raise typer.BadParameter(f"{text!r}: FLOW[:started|:healthy|:completed] is wanted", param_hint="--depends-on")
    return {"container": flow, "condition": condition}


def http_readiness(text: str) -> dict[str, Any]:
    """`8000` or `8000/healthz`."""
    port, slash, path = text.partition("/")
    if not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535:
        raise typer.BadParameter(f"{text!r}: PORT[/PATH] is wanted", param_hint="--ready-http")
    return {"port": int(port), "path": slash + path} if slash else {"port": int(port)}
