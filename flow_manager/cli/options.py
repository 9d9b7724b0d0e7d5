"""The options that many verbs share. Only typer is imported here: `flow-manager --help` must not wait for the rest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

import typer

# The client's own constant is not imported: its module costs pydantic.
DEFAULT_URL = "http://127.0.0.1:8080"

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help=f"The service (FLOW_MANAGER_URL). Default: {DEFAULT_URL}."),
]
Token = Annotated[
    str | None,
    typer.Option("--token", metavar="TOKEN", help="Who you are (FLOW_MANAGER_TOKEN, which `ps` can't show)."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the reply's data as JSON.")]
FlowId = Annotated[str, typer.Argument(metavar="FLOW", help="Id or name.", show_default=False)]
FlowIds = Annotated[list[str], typer.Argument(metavar="FLOW...", help="Ids or names.", show_default=False)]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a verb goes, as whom, and how it prints."""

    url: str
    token: str | None
    as_json: bool


@dataclass(frozen=True, slots=True)
class Given:
    """What stood before the verb."""

    url: str | None = None
    token: str | None = None
    as_json: bool = False


def target(context: typer.Context, url: str | None, token: str | None, as_json: bool) -> Target:
    """After the verb wins over before the verb, and both over the environment."""
    given = context.find_object(Given) or Given()
    return Target(
        url=url or given.url or os.environ.get("FLOW_MANAGER_URL") or DEFAULT_URL,
        token=token or given.token or os.environ.get("FLOW_MANAGER_TOKEN") or None,
        as_json=as_json or given.as_json,
    )
