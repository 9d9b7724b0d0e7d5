"""What a container says of itself in its description ("Notes"): the lines between two `flow-manager:` marks. Pure.

Others' containers: `idle-timeout=5m`, one wish a line, the prefix `flow-manager.` may be left out. On our own the labels of
a client stand there too, as `label.team=blue`. A value that a line can't hold stands there as a JSON string.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from flow_manager.contract.fields import RESERVED_LABEL_PREFIX

MARK = "flow-manager:"
TAG = "flow-manager"
# pve-container refuses more; its own limit counts characters.
MAX_DESCRIPTION = 8192
_LABEL = "label."
HEAD = "Made by flow-manager, which reads the lines between the marks: leave them as they are."


def read_description(description: str) -> dict[str, str]:
    """The labels that it holds; none without a mark. Never raises: a line that is no `name=value` is left out."""
    labels: dict[str, str] = {}
    for line in _between(description):
        try:
            key, value = _parse(line)
        except ValueError:
            continue
        if key.startswith(_LABEL):
            labels[key.removeprefix(_LABEL)] = value
        else:
            labels[key if key.startswith(RESERVED_LABEL_PREFIX) else f"{RESERVED_LABEL_PREFIX}{key}"] = value
    return labels


def write_description(labels: Mapping[str, str]) -> str:
    """:raises ValueError: it would be longer than the server takes."""
    lines = [HEAD, "", MARK, *(_line(key, value) for key, value in labels.items()), MARK]
    text = "\n".join(lines)
    if len(text) > MAX_DESCRIPTION:
        raise ValueError(f"the labels take {len(text)} characters of a description, {MAX_DESCRIPTION} are allowed")
    return text


def _between(description: str) -> Iterator[str]:
    inside = False
    for raw in description.splitlines():
        line = raw.strip()
        if line.lower() == MARK:
            if inside:
                return
            inside = True
        elif inside and line:
            # Notes are markdown: a list, or a line break by two spaces or a backslash, is what people write there.
            yield line.removeprefix("- ").removeprefix("* ").removesuffix("\\").strip()


def _parse(line: str) -> tuple[str, str]:
    decoder = json.JSONDecoder()
    if line.startswith(f'{_LABEL}"'):
        key, end = decoder.raw_decode(line, len(_LABEL))
        key, rest = f"{_LABEL}{key}", line[end:]
        equals, value = rest[:1], rest[1:]
    else:
        key, equals, value = line.partition("=")
        key = key.strip()
    if equals != "=" or not key:
        raise ValueError("no name=value")
    value = value.strip()
    if value.startswith('"'):
        decoded = json.loads(value)
        if not isinstance(decoded, str):
            raise ValueError("not a text")
        value = decoded
    return key, value


def _line(key: str, value: str) -> str:
    if not key.startswith(RESERVED_LABEL_PREFIX):
        plain = "=" not in key and key.isprintable() and key == key.strip() and not key.startswith('"')
        key = f"{_LABEL}{key if plain else json.dumps(key)}"
    simple = value.isprintable() and value == value.strip() and not value.startswith('"') and not value.endswith("\\")
    return f"{key}={value if simple else json.dumps(value)}"
