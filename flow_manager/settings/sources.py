"""Where settings come from: each source is read into the same shape, a nested dict and the origin of every value in it.

Nothing is judged here but what can't be read at all, or names no setting: each such thing is one line in `problems`.
A value never appears in a problem: it may be a secret.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flow_manager.settings.names import (
    ENVIRONMENT_PREFIX,
    NESTING,
    SettingPath,
    bare,
    dotted,
    find,
    flag,
    is_path,
    item_type,
    nearest,
    shape,
    variable,
)
from flow_manager.util import strict_json

# These belong to the command line, its client and the workshop's scripts, not to the service.
NOT_SETTINGS = frozenset(
    {
        "FLOW_MANAGER_URL",
        "FLOW_MANAGER_TOKEN",
        "FLOW_MANAGER_CONFIG",
        "FLOW_MANAGER_DEMO_IMAGE",
        "FLOW_MANAGER_ENGINE_DIR",
    }
)
# Switches of the test suite (`FLOW_MANAGER_REQUIRE_ENGINE=1` makes a missing engine a failure).
TEST_SWITCH_PREFIXES = ("FLOW_MANAGER_REQUIRE_", "FLOW_MANAGER_TEST_")
# A settings file is read by people; one this long is a mistake (`--config` given a log or a device).
MAX_FILE_BYTES = 1024 * 1024


@dataclass(slots=True)
class Source:
    """What one source said. `origins` maps a setting's path to words such as `environment variable FLOW_MANAGER_PORT`."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[SettingPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def put(self, path: SettingPath, value: Any, origin: str) -> None:
        here = self.values
        for part in path[:-1]:
            here = here.setdefault(part, {})
        existing = here.get(path[-1])
        # FLOW_MANAGER_AUTH='{...}' beside FLOW_MANAGER_AUTH__HOSTS: both count, the narrower name wins.
        here[path[-1]] = merge(value, existing) if isinstance(existing, dict) and isinstance(value, dict) else value
        self.origins[path] = origin


def merge(below: Any, above: Any) -> Any:
    """`above` over `below`: sections are merged, everything else is replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    merged = dict(below)
    for key, value in above.items():
        merged[key] = merge(merged[key], value) if key in merged else value
    return merged


def read_flags(flags: Mapping[str, Any]) -> Source:
    """Flags by setting's name (`port`, `activity.keep`); None means that it was not given."""
    source = Source()
    for name, value in flags.items():
        if value is None:
            continue
        path = tuple(name.split("."))
        origin = f"flag {flag(path)}"
        try:
            annotation = find(path)
        except KeyError:
            source.problems.append(_unknown(path, origin, flag))
            continue
        source.put(path, _expanded(annotation, value), origin)
    return source


def read_environment(environ: Mapping[str, str]) -> Source:
    """Variables `FLOW_MANAGER_<SECTION>__<NAME>`. Lists are JSON or comma-separated; sections and objects are JSON.

    An empty value of anything but a list counts as not set (`${PORT:-}` in a compose file).
    """
    source = Source()
    for name in sorted(environ):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in NOT_SETTINGS or name.startswith(TEST_SWITCH_PREFIXES):
            continue
        origin = f"environment variable {name}"
        path = tuple(part.lower() for part in name.removeprefix(ENVIRONMENT_PREFIX).split(NESTING))
        try:
            annotation = find(path)
        except KeyError:
            source.problems.append(_unknown(path, origin, variable))
            continue
        try:
            value = _parse_text(annotation, environ[name])
        except ValueError as exc:
            source.problems.append(f"{dotted(path)} ({origin}): {exc}")
            continue
        if value is None:
            continue
        source.problems += _unknown_inside(annotation, value, path, origin)
        source.put(path, _expanded(annotation, value), origin)
    return source


def read_file(path: Path) -> Source:
    """A TOML file; relative folders in it count from the working folder, as on the command line."""
    source = Source()
    origin = f"file {path}"
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        source.problems.append(f"{origin}: cannot be read: {exc.strerror or type(exc).__name__}")
        return source
    if len(raw) > MAX_FILE_BYTES:
        source.problems.append(f"{origin}: more than {MAX_FILE_BYTES} bytes: is it a settings file?")
        return source
    try:
        values = tomllib.loads(raw.decode())
    except UnicodeDecodeError:
        source.problems.append(f"{origin}: not UTF-8 text")
        return source
    except tomllib.TOMLDecodeError as exc:
        source.problems.append(f"{origin}: not TOML: {exc}")
        return source
    for name, value in values.items():
        try:
            annotation = find((name,))
        except KeyError:
            source.problems.append(_unknown((name,), origin, dotted))
            continue
        inside = _unknown_inside(annotation, value, (name,), origin)
        source.problems += inside
        source.put((name,), _expanded(annotation, value), origin)
    return source


def _parse_text(annotation: Any, text: str) -> Any:
    kind = shape(annotation)
    if kind == "list" and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    if not text.strip():
        return None
    if kind == "scalar":
        return text.strip()
    try:
        value = strict_json.loads(text)
    except strict_json.JsonRefused as exc:
        example = {"objects": '[{"name": "…"}]', "list": '["…", "…"]'}.get(kind, '{"…": …}')
        raise ValueError(f"{exc}; write it as JSON: {example}") from None
    wanted = dict if kind in ("section", "table") else list
    if not isinstance(value, wanted):
        raise ValueError("a JSON object is wanted" if wanted is dict else "a JSON list is wanted")
    return value


def _expanded(annotation: Any, value: Any) -> Any:
    """`~` at the start of a folder is the home folder, wherever the setting came from (a shell has done so for flags)."""
    kind = shape(annotation)
    if kind == "scalar" and is_path(annotation) and isinstance(value, str | Path):
        return _home(value)
    if kind == "list" and is_path(item_type(annotation)) and isinstance(value, list):
        return [_home(item) if isinstance(item, str | Path) else item for item in value]
    if kind == "section" and isinstance(value, dict):
        return {key: _expanded(_child(annotation, key), item) for key, item in value.items()}
    if kind == "table" and isinstance(value, dict):
        return {key: _expanded(item_type(annotation), item) for key, item in value.items()}
    return value


def _home(path: str | Path) -> str | Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user, or no HOME: the folder's own check will say so
        return path


def _child(annotation: Any, key: str) -> Any:
    try:
        return find((key,), annotation)
    except KeyError:
        return object


def _unknown_inside(annotation: Any, value: Any, path: SettingPath, origin: str) -> list[str]:
    """Names inside a section, a table or a list of objects that are no settings."""
    kind = shape(annotation)
    if kind == "section" and isinstance(value, dict):
        found: list[str] = []
        for key, item in value.items():
            try:
                child = find((key,), annotation)
            except KeyError:
                found.append(_unknown((*path, key), origin, dotted))
                continue
            found += _unknown_inside(child, item, (*path, key), origin)
        return found
    if kind == "table" and isinstance(value, dict):
        return [
            line
            for key, item in value.items()
            for line in _unknown_inside(item_type(annotation), item, (*path, key), origin)
        ]
    if kind == "objects" and isinstance(value, list):
        return [
            line
            for place, item in enumerate(value)
            if isinstance(item, dict)
            for line in _unknown_fields(item_type(annotation), item, (*path, str(place)), origin)
        ]
    return []


def _unknown_fields(model: Any, value: dict[str, Any], path: SettingPath, origin: str) -> list[str]:
    known = list(bare(model).model_fields)
    lines = []
    for key in value:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"the nearest is {close[0]}" if close else f"there are {', '.join(known)}"
            lines.append(f"{dotted((*path, key))} ({origin}): no such setting; {hint}")
    return lines


def _unknown(path: SettingPath, origin: str, spell: Any) -> str:
    near = nearest(path)
    hint = f"the nearest is {spell(near)}" if near else "see docs/reference/settings.md"
    return f"{dotted(path)} ({origin}): no such setting; {hint}"
