"""What an OCI archive (`skopeo copy ... oci-archive:`, a recent `docker save`) says of how its image is started."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from typing import Any

from tests.pve.storage import OciImage

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def read_image(data: bytes) -> OciImage | None:
    """None: it isn't an OCI archive."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            index = _json(tar, "index.json")
            manifest = _json(tar, _blob(index["manifests"][0]["digest"]))
            config = _json(tar, _blob(manifest["config"]["digest"])).get("config") or {}
    except (tarfile.TarError, KeyError, IndexError, ValueError):
        return None
    command = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]
    return OciImage(
        entrypoint=shlex.join(command) or None,
        env=dict(pair.split("=", 1) for pair in config.get("Env") or [DEFAULT_PATH]),
        stop_signal=config.get("StopSignal") or "SIGTERM",
        working_dir=config.get("WorkingDir") or None,
        user=config.get("User") or None,
    )


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _json(tar: tarfile.TarFile, name: str) -> Any:
    file = tar.extractfile(name)
    if file is None:
        raise KeyError(name)
    return json.load(file)
