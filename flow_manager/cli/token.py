"""token create: a secret for a person or program, and the lines by which a service will know it."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from flow_manager.cli.options import Given
from flow_manager.cli.output import complain, print_json

_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}\Z")
_TENANT = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?\Z")
SCOPES = ("read", "write")

tokens = typer.Typer(help="Tokens by which a service knows its callers.", no_args_is_help=True)


@tokens.callback()
def _tokens() -> None:
    """Tokens by which a service knows its callers."""


@tokens.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Who it is for; the actor of what is done with it.")] = "me",
    tenant: Annotated[str, typer.Option("--tenant", help="Whose flows it sees.")] = "default",
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="read or write; repeatable. Default: both.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print token, hash and lines as JSON.")] = False,
) -> None:
    """Make a token. It is printed once and kept nowhere: the settings hold its hash alone."""
    from flow_manager.util.ids import new_token
    from flow_manager.util.tokens import hash_token

    if not _NAME.match(name):
        raise typer.BadParameter("letters, digits and _ . @ - , at most 64", param_hint="--name")
    if not _TENANT.match(tenant):
        raise typer.BadParameter("a-z, 0-9 and '-', at most 32, no '-' at either end", param_hint="--tenant")
    scopes = list(dict.fromkeys(scope or SCOPES))
    if wrong := [item for item in scopes if item not in SCOPES]:
        raise typer.BadParameter(f"no scope '{wrong[0]}': read, write", param_hint="--scope")
    token = new_token()
    hashed = hash_token(token)
    lines = ["[[auth.tokens]]", f'name = "{name}"', f'hash = "{hashed}"']
    if tenant != "default":
        lines.append(f'tenant = "{tenant}"')
    if set(scopes) != set(SCOPES):
        lines.append("scopes = [" + ", ".join(f'"{item}"' for item in scopes) + "]")
    given = context.find_object(Given) or Given()
    if as_json or given.as_json:
        print_json(
            {"token": token, "name": name, "hash": hashed, "tenant": tenant, "scopes": scopes, "toml": "\n".join(lines)}
        )
        return
    # The secret alone goes to where `$(…)` would take it from; the rest is for the reader.
    complain("The token, shown this once (give it as FLOW_MANAGER_TOKEN or --token):")
    print(token, flush=True)
    complain("Into the service's settings file:")
    print("\n".join(["", *lines]), flush=True)
