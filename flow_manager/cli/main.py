"""flow-manager: the program. Each verb has a file of its own; what is heavy is imported inside the verbs."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from flow_manager import __version__
from flow_manager.cli import (
    activity,
    attach,
    create,
    demo,
    exec,
    explain,
    lifecycle,
    logs,
    ps,
    send,
    serve,
    update,
    wake,
)
from flow_manager.cli.doctor import command as doctor
from flow_manager.cli.options import Given, Json, Token, Url
from flow_manager.cli.token import tokens


def build() -> typer.Typer:
    """The command line, without running it: the reference is generated from it, too."""
    app = typer.Typer(
        name="flow-manager",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,  # its traces print local variables, tokens among them
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(before_the_verb)
    for family in (
        serve,
        demo,
        ps,
        create,
        lifecycle,
        update,
        wake,
        explain,
        send,
        exec,
        attach,
        logs,
        activity,
        doctor,
    ):
        family.register(app)
    app.add_typer(tokens, name="token")
    return app


def before_the_verb(
    context: typer.Context,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=lambda shown: _version(shown))
    ] = False,
) -> None:
    """Run, talk to and watch flow containers.

    Exit status: 0 done, 1 the service said no, 2 wrong usage, 3 not reachable.
    """
    context.obj = Given(url, token, as_json)


def _version(shown: bool) -> None:
    if shown:
        print(f"flow-manager {__version__}")
        raise typer.Exit


def main() -> None:
    """The entry point of the program `flow-manager`."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that is not UTF-8 gets `?` for what it can't show, not a crash.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    build()()


if __name__ == "__main__":
    main()
