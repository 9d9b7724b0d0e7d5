"""The names of the settings, read from the models: what exists, what each takes, and the nearest to one that doesn't.

A setting's place is a path such as `("activity", "keep")`: `activity.keep` in a file's words, `FLOW_MANAGER_ACTIVITY__KEEP`
in the environment's. Below `runtimes` the first step is free: the name of a runtime.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from flow_manager.settings.models import Settings

SettingPath = tuple[str, ...]
ENVIRONMENT_PREFIX = "FLOW_MANAGER_"
NESTING = "__"
# Stands for a name that the user chooses, in the list of all settings.
FREE_NAME = "<name>"

Shape = Literal["section", "table", "list", "objects", "scalar"]


def dotted(path: SettingPath) -> str:
    return ".".join(path)


def variable(path: SettingPath) -> str:
    """`("activity", "keep")` → `FLOW_MANAGER_ACTIVITY__KEEP`."""
    return ENVIRONMENT_PREFIX + NESTING.join(part.upper() for part in path)


def flag(path: SettingPath) -> str:
    return "--" + "-".join(part.replace("_", "-") for part in path)


def bare(annotation: Any) -> Any:
    """The type inside `Annotated[...]` and `... | None`."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            inner = [item for item in get_args(annotation) if item is not type(None)]
            if len(inner) != 1:
                return annotation
            annotation = inner[0]
        else:
            return annotation


def shape(annotation: Any) -> Shape:
    """How a setting is written: a section (a model), a table (free names), a list of values or of objects, or one value."""
    kind = bare(annotation)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "section"
    origin = get_origin(kind)
    if origin is dict:
        return "table"
    if origin in (tuple, list, frozenset, set):
        return "objects" if shape(get_args(kind)[0]) == "section" else "list"
    return "scalar"


def item_type(annotation: Any) -> Any:
    """What a list or a table holds."""
    arguments = get_args(bare(annotation))
    return arguments[1] if get_origin(bare(annotation)) is dict else arguments[0]


def is_path(annotation: Any) -> bool:
    return bare(annotation) is Path


def find(path: SettingPath, model: Any = Settings) -> Any:
    """The type of the setting at `path`.

    :raises KeyError: with the number of steps that did exist.
    """
    current: Any = model
    for depth, part in enumerate(path):
        kind = shape(current)
        if kind == "section":
            fields = bare(current).model_fields
            if part not in fields:
                raise KeyError(depth)
            current = fields[part].annotation
        elif kind == "table":
            current = item_type(current)
        else:
            raise KeyError(depth)
    return current


def all_settings(model: Any = Settings, prefix: SettingPath = ()) -> Iterator[tuple[SettingPath, Any]]:
    """Every setting with its `FieldInfo`, in the order of the models; sections are walked into."""
    for name, field in bare(model).model_fields.items():
        annotation = field.annotation
        path = (*prefix, name)
        match shape(annotation):
            case "section":
                yield from all_settings(annotation, path)
            case "table":
                yield from all_settings(item_type(annotation), (*path, FREE_NAME))
            case _:
                yield path, field


def nearest(path: SettingPath) -> SettingPath | None:
    """The setting whose name is most like `path`, with the user's own names where a name is free; None when none is."""
    candidates: dict[str, SettingPath] = {}
    for known, _field in all_settings():
        filled = tuple(
            path[place] if part == FREE_NAME and place < len(path) else part for place, part in enumerate(known)
        )
        for length in range(1, len(filled) + 1):
            candidates.setdefault(dotted(filled[:length]), filled[:length])
    wanted = dotted(path).lower()
    if wanted in candidates:
        return candidates[wanted]
    # A setting written without its section ("keep") is the commonest slip after a misspelling.
    tails = [name for name in candidates if name.endswith("." + wanted)]
    if tails:
        return candidates[tails[0]]
    # One underscore where two nest ("ACTIVITY_KEEP"), or a dash.
    flat = {name.replace(".", "_"): name for name in candidates}
    if (known_flat := flat.get(wanted.replace(".", "_").replace("-", "_"))) is not None:
        return candidates[known_flat]
    close = difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.6)
    if close:
        return candidates[close[0]]
    last_words = {name.rsplit(".", 1)[-1]: name for name in reversed(candidates)}
    close = difflib.get_close_matches(wanted.rsplit(".", 1)[-1], last_words, n=1, cutoff=0.75)
    return candidates[last_words[close[0]]] if close else None
