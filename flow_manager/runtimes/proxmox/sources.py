"""What a container is made of: finding the template (or OCI image archive) that a word means on a node's storages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flow_manager.errors import ImageNotFound
from flow_manager.runtimes.proxmox.client import KIND, PveClient
from flow_manager.runtimes.proxmox.errors import Subject, translated
from flow_manager.runtimes.proxmox.failure import CallFailed
from flow_manager.runtimes.proxmox.resources import text

# An OCI layout archive, as `skopeo copy … oci-archive:` and a registry pull of the server's own leave it.
OCI_SUFFIX = ".tar"
_SUFFIXES = (".tar.zst", ".tar.gz", ".tar.xz", OCI_SUFFIX)


def stem(volume: str) -> str:
    """`local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst` → `debian-12-standard_12.7-1_amd64`."""
    name = volume.rpartition("/")[2]
    return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)


def choose(word: str, volumes: Iterable[str]) -> str | None:
    """The volume that an image reference or a template's name means; of several versions the newest.

    `nginx:1.27` is the file `nginx_1.27.tar`, as the server names what it pulls; `debian-12-standard` any of its versions.
    """
    listed = sorted(volumes, key=_by_version, reverse=True)
    for volume in listed:
        if word in (volume, volume.rpartition("/")[2], stem(volume)):
            return volume
    short = word.rpartition("/")[2]
    name, _, tag = short.partition(":")
    wanted = [f"{name}_{tag}", f"{name}-{tag}"] if tag else [f"{name}_latest", name]
    for exact in (word.replace("/", "_").replace(":", "_"), *wanted):
        for volume in listed:
            if stem(volume) == exact:
                return volume
    if not tag:
        return next((volume for volume in listed if stem(volume).startswith(f"{name}_")), None)
    return None


def _by_version(volume: str) -> list[tuple[int, int | str]]:
    """Numbers in a name count as numbers: 12.10 is newer than 12.7."""
    parts: list[tuple[int, int | str]] = []
    number = ""
    for character in f"{volume}\0":
        if character.isdigit():
            number += character
            continue
        if number:
            parts.append((1, int(number)))
            number = ""
        parts.append((0, character))
    return parts


class Sources:
    def __init__(self, client: PveClient) -> None:
        self._client = client

    async def find(self, word: str, nodes: list[str]) -> tuple[str, str]:
        """(node, volume): on the first of these nodes that has it. :raises ImageNotFound, RuntimeUnavailable, RuntimeRefused:"""
        named = ":vztmpl/" in word
        if named and len(nodes) == 1:
            return nodes[0], word  # named to the letter: the server says whether it is there
        seen: list[str] = []
        for node in nodes:
            volumes = await self._volumes(node)
            if (volume := choose(word, volumes)) is not None:
                return node, volume
            seen += volumes
        if named:
            return nodes[0], word  # the login may not list that storage
        known = ", ".join(sorted({stem(volume) for volume in seen})[:10])
        reason = f"there are: {known}" if known else "the login sees no template on any storage (Datastore.Audit?)"
        raise ImageNotFound(f"no template '{word}': {reason}", kind=KIND, image=word, reason=reason)

    async def _volumes(self, node: str) -> list[str]:
        with translated(Subject(node=node)):
            storages = await self._client.get(f"nodes/{node}/storage", content="vztmpl", enabled=1)
            found: list[str] = []
            for storage in storages if isinstance(storages, list) else ():
                name = text(storage.get("storage")) if isinstance(storage, Mapping) else ""
                if not name:
                    continue
                try:
                    content = await self._client.get(f"nodes/{node}/storage/{name}/content", content="vztmpl")
                except CallFailed as failed:
                    if failed.passing or failed.status == 401:
                        raise
                    continue  # one that can't be read must not hide the others
                found += [text(item.get("volid")) for item in content if isinstance(item, Mapping)]
            return [volume for volume in found if volume]
