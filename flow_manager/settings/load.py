"""Settings from flags, then the environment, then a TOML file; whatever is wrong is refused in one go, each with its remedy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flow_manager.errors import SettingsRefused
from flow_manager.settings import defaults
from flow_manager.settings.checks import contradictions
from flow_manager.settings.models import HASH_FORM, HOST_PORT_FORM, Settings
from flow_manager.settings.names import SettingPath, dotted
from flow_manager.settings.sources import Source, merge, read_environment, read_file, read_flags

CONFIG_VARIABLE = "FLOW_MANAGER_CONFIG"
# Beyond this, a list of problems helps nobody.
MAX_PROBLEMS_TOLD = 20
# An operator reads what is wanted rather than a regular expression.
_FORMS = {
    HOST_PORT_FORM: "host:port is wanted, for example 127.0.0.1:15432",
    HASH_FORM: "sha256: and 64 hex digits are wanted, as `flow-manager token create` prints them",
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """`notes` are for the operator: a default that was not used, and why."""

    settings: Settings
    notes: tuple[str, ...]
    config_file: Path | None


def load(flags: Mapping[str, Any], environ: Mapping[str, str], config_file: Path | None = None) -> Settings:
    """The settings; see `load_with_notes`.

    :raises SettingsRefused: naming each wrong setting, where it came from and the remedy, never a value that may be secret.
    """
    return load_with_notes(flags, environ, config_file).settings


def load_with_notes(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    config_file: Path | None = None,
    *,
    cwd: Path | None = None,
    uid: int | None = None,
) -> Loaded:
    """Flags (by setting's name, `activity.keep`; None: not given) over `FLOW_MANAGER_…` variables over the TOML file.

    Without `config_file` the variable FLOW_MANAGER_CONFIG may name one.

    :raises SettingsRefused: as `load`.
    """
    if config_file is None and environ.get(CONFIG_VARIABLE):
        config_file = Path(environ[CONFIG_VARIABLE])
    sources = [read_file(config_file)] if config_file else []
    sources += [read_environment(environ), read_flags(flags)]
    values: dict[str, Any] = {}
    for source in sources:
        values = merge(values, source.values)
    problems = [line for source in sources for line in source.problems]
    notes: list[str] = []
    try:
        values.setdefault("state_dir", None)
        if values["state_dir"] is None:
            values["state_dir"] = defaults.state_dir(environ)
        if values.get("sockets_dir") is None:
            values["sockets_dir"], notes = defaults.sockets_dir(
                environ, cwd=cwd or Path.cwd(), uid=os.getuid() if uid is None else uid
            )
    except defaults.NoDefault as exc:
        problems.append(str(exc))
    settings = _validated(values, sources, problems)
    if problems or settings is None:
        raise SettingsRefused(_worded(problems))
    return Loaded(_absolute(settings), tuple(notes), config_file)


def _validated(values: dict[str, Any], sources: list[Source], problems: list[str]) -> Settings | None:
    try:
        settings = Settings.model_validate(values)
    except ValidationError as exc:
        origins = {path: origin for source in sources for path, origin in source.origins.items()}
        for item in exc.errors(include_url=False, include_input=False, include_context=False):
            path = tuple(str(part) for part in item["loc"])
            # Unknown names were told already, in better words, where they were read.
            if item["type"] == "extra_forbidden" and any(line.startswith(f"{dotted(path)} (") for line in problems):
                continue
            # A folder for which there is no default: told already.
            if item["type"] == "missing" and len(path) == 1:
                continue
            origin = _origin_of(path, origins)
            problems.append(f"{dotted(path)}{f' ({origin})' if origin else ''}: {_reason(item)}")
        return None
    problems += contradictions(settings)
    return settings


def _origin_of(path: SettingPath, origins: Mapping[SettingPath, str]) -> str | None:
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return origins[path[:length]]
    return None


def _reason(item: Any) -> str:
    """pydantic's words, which don't hold the value; its own prefix for a validator's ValueError says nothing to an operator."""
    told = str(item["msg"])
    for pattern, form in _FORMS.items():
        if item["type"] == "string_pattern_mismatch" and told.endswith(f"'{pattern}'"):
            return form
    return told.removeprefix("Value error, ")


def _absolute(settings: Settings) -> Settings:
    """Folders as absolute paths: a service that changes its working folder, or a mount, must not look elsewhere."""
    folders = ("state_dir", "sockets_dir", "sockets_host_dir", "state_host_dir")
    found = {name: getattr(settings, name) for name in folders}
    return settings.model_copy(update={name: path.absolute() for name, path in found.items() if path is not None})


def _worded(problems: list[str]) -> str:
    unique = list(dict.fromkeys(problems))
    told = unique[:MAX_PROBLEMS_TOLD]
    if len(unique) > len(told):
        told.append(f"and {len(unique) - len(told)} more")
    head = "1 setting is refused" if len(unique) == 1 else f"{len(unique)} settings are refused"
    return "\n".join([f"{head}:", *(f"  {line}" for line in told)])
