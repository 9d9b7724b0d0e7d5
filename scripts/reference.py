"""Write docs/reference/ from the code: events, models, settings, command line, errors, activity types.

python scripts/reference.py            # writes
python scripts/reference.py --check    # exit status 1 when what is there is not what would be written
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import typer.main
from pydantic import BaseModel, TypeAdapter

from flow_manager import errors
from flow_manager.cli.main import build
from flow_manager.contract.activity import Activity
from flow_manager.contract.events import CLIENT_EVENTS, SERVER_EVENTS
from flow_manager.settings.models import Settings
from flow_manager.settings.names import all_settings, dotted, variable

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- Made by scripts/reference.py from the code: change the code, then `make reference`. -->"


def table(headings: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    heads = list(headings)
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(cell(item) for item in row) + " |" for row in rows]
    return "\n".join(lines)


def cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


# --- schemas, worded --------------------------------------------------------------------------------------------------


def worded(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A JSON schema as people write types."""
    if "$ref" in schema:
        return f"[{schema['$ref'].rsplit('/', 1)[-1]}](models.md#{schema['$ref'].rsplit('/', 1)[-1].lower()})"
    if "anyOf" in schema:
        return " or ".join(worded(item, definitions) for item in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{item}`" for item in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`".replace("True", "true")
    kind = schema.get("type")
    if kind == "array":
        return f"list of {worded(schema.get('items', {}), definitions)}"
    if kind == "object":
        inside = schema.get("additionalProperties")
        return f"object of {worded(inside, definitions)}" if isinstance(inside, dict) else "object"
    text = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}
    named = "time" if schema.get("format") == "date-time" else text.get(str(kind), "anything")
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    if "maxLength" in schema:
        bounds.append(f"at most {schema['maxLength']} characters")
    return f"{named} {' and '.join(bounds)}".strip()


def fields(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    required = set(schema.get("required", []))
    rows = []
    for name, item in schema.get("properties", {}).items():
        default = "required" if name in required else f"`{default_of(item)}`"
        rows.append((f"`{name}`", worded(item, definitions), default))
    return table(["field", "takes", "default"], rows) if rows else "No fields."


def default_of(item: dict[str, Any]) -> str:
    value = item.get("default", "")
    if isinstance(value, dict) and "$ref" in item:
        value = {}  # the defaults of another table, which has them
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value)) or '""'


def models_in(kind: Any, found: dict[str, type[BaseModel]]) -> None:
    """Add every model that a type refers to, itself too, by name."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if kind.__name__ in found:
            return
        found[kind.__name__] = kind
        for field in kind.model_fields.values():
            models_in(field.annotation, found)
    for argument in get_args(kind):
        models_in(argument, found)


def wire_models() -> list[type[BaseModel]]:
    """Every model that a request or a reply refers to, by name."""
    found: dict[str, type[BaseModel]] = {}
    for event in CLIENT_EVENTS.values():
        models_in(event.reply, found)
        for field in event.request.model_fields.values():
            models_in(field.annotation, found)
    for sent in SERVER_EVENTS.values():
        models_in(sent.data, found)
    return [found[name] for name in sorted(found)]


def settings_models() -> list[type[BaseModel]]:
    """The tables that settings are lists of, and that the wire doesn't have."""
    found: dict[str, type[BaseModel]] = {}
    for _, field in all_settings(Settings):
        models_in(field.annotation, found)
    return [found[name] for name in sorted(found.keys() - {model.__name__ for model in wire_models()})]


# --- pages ------------------------------------------------------------------------------------------------------------


def reply_name(kind: Any) -> str:
    if kind is None:
        return "`{}`"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"[{kind.__name__}](models.md#{kind.__name__.lower()})"
    inner = [item for item in get_args(kind) if isinstance(item, type) and issubclass(item, BaseModel)]
    return f"list of {reply_name(inner[0])}" if inner else "object"


def events_page() -> str:
    parts = [
        "# Events",
        'Every client event is acknowledged with `{"error": false, "data": …}` or with an [error object](errors.md). '
        "Times are seconds. An event that changes something also takes `request_id` (at most 64 characters): the same id "
        "within 24 hours gives the first reply and does nothing twice.",
        "## From the client",
        table(
            ["event", "scope", "what it does", "data of the reply"],
            [
                (f"[`{event.name}`](#{event.name})", event.scope, event.summary, reply_name(event.reply))
                for event in CLIENT_EVENTS.values()
            ],
        ),
    ]
    for event in CLIENT_EVENTS.values():
        parts += [f"### {event.name}", event.summary, fields(event.request)]
    parts += [
        "## From the service",
        table(
            ["event", "data", "when"],
            [(f"`{event.name}`", reply_name(event.data), event.summary) for event in SERVER_EVENTS.values()],
        ),
    ]
    return page(parts)


def models_page() -> str:
    parts = ["# Models", "Field names are wire names. Unknown fields are refused."]
    for model in wire_models():
        parts += [f"## {model.__name__}"]
        if own := first_line_of_own(model):
            parts.append(own)
        parts.append(fields(model))
    return page(parts)


def first_line_of_own(model: type[BaseModel]) -> str:
    """A model without a docstring of its own would show its base's."""
    return " ".join((model.__doc__ or "").split("\n\n")[0].split()) if "__doc__" in vars(model) else ""


def settings_page() -> str:
    rows = []
    for path, field in all_settings(Settings):
        default = (
            "chosen at start" if field.is_required() else f"`{plain(field.get_default(call_default_factory=True))}`"
        )
        adapter = TypeAdapter(field.annotation)
        takes = worded(adapter.json_schema(), {})
        rows.append((f"`{dotted(path)}`", f"`{variable(path)}`", takes, default, field.description or ""))
    own = settings_models()
    text = page(
        [
            "# Settings",
            "Flags win over environment variables, and these over the TOML file (`--config`, `FLOW_MANAGER_CONFIG`). Sections "
            "are TOML tables, and `__` in a variable's name: `[activity] keep = 10` is `FLOW_MANAGER_ACTIVITY__KEEP=10`. "
            "Lists in a variable are comma-separated or JSON; lists of objects and whole sections are JSON. Durations are "
            'seconds or text (`"5m"`). An unknown name is refused, with the nearest that exists. `<name>` is a name of your choice.',
            table(["setting", "variable", "takes", "default", "meaning"], rows),
            "`state_dir`: `$XDG_STATE_HOME/flow-manager`, else `~/.local/state/flow-manager`. `sockets_dir`: `./sockets` in a "
            "checkout, else `/run/flow-manager` for root, else `$XDG_RUNTIME_DIR/flow-manager`, else `/tmp/flow-manager-<uid>`.",
            *(part for model in own for part in (f"## {model.__name__}", first_line_of_own(model), fields(model))),
        ]
    )
    for model in own:
        text = text.replace(f"(models.md#{model.__name__.lower()})", f"(#{model.__name__.lower()})")
    return text


def plain(value: Any) -> str:
    if isinstance(value, (tuple, frozenset)):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return {"None": "none", "True": "true", "False": "false"}.get(str(value), str(value))


def cli_page() -> str:
    command = typer.main.get_command(build())
    context = typer.main.get_command(build()).make_context("flow-manager", [], resilient_parsing=True)
    parts = ["# Command line", command.help or "", options_table(command)]
    parts += [verb for name in command.list_commands(context) for verb in verb_parts(command, context, name)]  # type: ignore[attr-defined]
    return page(parts)


def verb_parts(group: Any, context: Any, name: str) -> list[str]:
    verb = group.get_command(context, name)
    inner = type(context)(verb, info_name=name, parent=context)
    if hasattr(verb, "list_commands"):
        return [part for sub in verb.list_commands(inner) for part in verb_parts(verb, inner, sub)]
    path = inner.command_path
    usage = " ".join([path, *verb.collect_usage_pieces(inner)])
    return [f"## {path.removeprefix('flow-manager ')}", f"`{usage}`", verb.help or "", options_table(verb)]


def options_table(command: Any) -> str:
    rows = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        if parameter.param_type_name == "argument":
            name = f"`{parameter.metavar or parameter.name.upper()}`"
        else:
            metavar = "" if getattr(parameter, "is_flag", False) else f" {parameter.metavar or parameter.name.upper()}"
            name = ", ".join(f"`{option}{metavar}`" for option in parameter.opts)
        rows.append((name, getattr(parameter, "help", None) or ""))
    return table(["argument or option", "meaning"], rows) if rows else ""


def error_classes(base: type[errors.FlowManagerError]) -> Iterable[type[errors.FlowManagerError]]:
    for kind in base.__subclasses__():
        if not kind.__subclasses__() and kind.__module__ == errors.__name__:
            yield kind
        yield from error_classes(kind)


def errors_page() -> str:
    rows = []
    for kind in error_classes(errors.FlowManagerError):
        runtime = issubclass(kind, errors.RuntimeFailure)
        own = first_line(kind) if "__doc__" in vars(kind) and kind.__doc__ else ""
        rows.append(
            (
                f"`{kind.code}`",
                "the runtime's" if runtime else f"`{kind.type_name}`",
                "yes" if kind.transient else "",
                own,
            )
        )
    kinds = ", ".join(f"`{name}`" for name in errors.ERROR_TYPE_OF_RUNTIME_KIND.values())
    return page(
        [
            "# Errors",
            '`{"error": true, "error_type": "…", "code": "…", "message": "…", "details": {…}, "timestamp": "2026-01-19T10:30:00Z"}`',
            f"`error_type` of a runtime's own errors is one of {kinds}. A transient error may be gone at the next try; such a "
            "reply is not kept for a repeated `request_id`.",
            table(["code", "error_type", "transient", "when"], rows),
        ]
    )


# What the types mean that have no method of their own.
FURTHER_TYPES = {
    "bad_frame": "A flow sent lines that can't be read; at most one entry a minute.",
    "operation_waiting": "An operation is held up by something outside that the manager can't end (a backup's lock): what it is.",
    "labels_changed": "The lines in the notes of an adopted Proxmox VE container were edited, and count now; `idle`: what they say of sleep, where that changed.",
    "flow_unreachable": "Where a flow is nobody answers (a Proxmox VE node that is offline): its status is `stale` until it is back.",
    "container_recreated": "An adopted container was made anew by whoever owns it.",
    "flow_busy": "A flow said that it is busy, and is kept awake.",
    "flow_failed": "A flow that was awake failed: its liveness, its health, or its end.",
    "flow_idle": "A flow said that it is no longer busy.",
    "label_unreadable": "A label of a container that others made can't be read.",
    "messages_waiting": "Messages for a flow that can't be had wait on, and it is not woken for them again until another comes: why.",
    "messages_expired": "Messages for a flow that was away waited longer than `idle.outbox_keep`, and went.",
    "napped": "A flow fell asleep: why, and how.",
    "policy_changed": "Somebody changed when a flow sleeps.",
    "wake_failed": "A flow did not wake: why.",
    "woke": "A flow woke: why, and how long each step of it took.",
}


def activity_types() -> set[str]:
    """Every type that the service writes."""
    source = (ROOT / "flow_manager" / "activity" / "log.py").read_text(encoding="utf-8")
    found = set(re.findall(r'"((?:container|image|actor|operation|runtime)_[a-z_]+)"', source))
    for path in (ROOT / "flow_manager").rglob("*.py"):
        found |= set(re.findall(r'log_user_activity\(\s*"([a-z_]+)"', path.read_text(encoding="utf-8")))
    return found | set(FURTHER_TYPES)


def activity_page() -> str:
    described = {
        name.removeprefix("log_"): first_line(method)
        for name, method in inspect.getmembers(logger_class(), inspect.isfunction)
        if name.startswith("log_")
    }
    rows = [(f"`{kind}`", described.get(kind) or FURTHER_TYPES.get(kind, "")) for kind in sorted(activity_types())]
    return page(
        [
            "# Activity",
            first_line(Activity),
            fields(Activity),
            "## Types",
            "An open list: a client shows one that it doesn't know by its `message`.",
            table(["type", "when"], rows),
        ]
    )


def logger_class() -> Any:
    from flow_manager.activity.log import UserActivityLogger

    return UserActivityLogger


def page(parts: Iterable[str]) -> str:
    head, *rest = [part for part in parts if part]
    return "\n\n".join([head, MADE, *rest]) + "\n"


def pages() -> dict[str, str]:
    return {
        "events.md": events_page(),
        "models.md": models_page(),
        "settings.md": settings_page(),
        "cli.md": cli_page(),
        "errors.md": errors_page(),
        "activity.md": activity_page(),
    }


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    wrong = []
    for name, text in pages().items():
        path = FOLDER / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        wrong.append(name)
        if not arguments:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if arguments and wrong:
        print(f"docs/reference: {', '.join(wrong)} not as the code has it: make reference", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
