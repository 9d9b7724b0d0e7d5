"""Storages: what templates there are, and whether there is room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GIB = 1 << 30
TOTAL = 100 * GIB


@dataclass(frozen=True, slots=True)
class OciImage:
    """What an OCI archive says: PVE makes options of the container of it."""

    entrypoint: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "SIGTERM"
    working_dir: str | None = None
    user: str | None = None
    serves: bool | None = None
    """Not of the image, but of the emulator: whether it answers HTTP. None: unless it has an entrypoint."""


@dataclass(slots=True)
class Template:
    name: str
    size: int = 123_456_789
    ctime: int = 1_750_000_000
    oci: OciImage | None = None

    @property
    def format(self) -> str:
        if self.oci is not None or self.name.endswith(".tar"):
            return "tar"
        return "t" + self.name.rpartition(".")[2]


@dataclass(slots=True)
class Storage:
    name: str
    templates: dict[str, Template] = field(default_factory=dict)
    full: bool = False
    content: str = "vztmpl,iso,rootdir,images,backup,import"
    used: int = 7 * GIB
    active: bool = True
    enabled: bool = True

    def volid(self, template: Template) -> str:
        return f"{self.name}:vztmpl/{template.name}"

    def find(self, volid: str) -> Template | None:
        storage, _, rest = volid.partition(":vztmpl/")
        return self.templates.get(rest) if storage == self.name else None
