"""A token in a file, made at the first start: so that a service in a container is closed from its first second on."""

from __future__ import annotations

import os
from pathlib import Path

from flow_manager.errors import SettingsRefused
from flow_manager.settings.models import Settings, TokenSettings
from flow_manager.util.ids import new_token
from flow_manager.util.tokens import hash_token

# Whoever has the file's token acts under this name, in the default tenant.
PRINCIPAL = "admin"
# A made one has 43 characters; a shorter one that a person thought up can be guessed.
MIN_LENGTH = 32
MAX_BYTES = 1024
_OTHERS = 0o077


def with_token_file(settings: Settings) -> Settings:
    """The settings with the token of `auth.token_file` among the tokens; the file is made where there is none.

    :raises SettingsRefused: it can't be made or read, others can read it, or what it holds is no token.
    """
    path = settings.auth.token_file
    if path is None:
        return settings
    try:
        token = _read(path)
        if token is None:
            token = _made(path)
    except OSError as error:
        raise SettingsRefused(f"auth.token_file: {path} can't be used ({error.strerror})") from None
    if any(known.name == PRINCIPAL for known in settings.auth.tokens):
        raise SettingsRefused(
            f"auth.token_file: its principal is '{PRINCIPAL}', as is one of auth.tokens: rename that one"
        )
    known = TokenSettings(name=PRINCIPAL, hash=hash_token(token))
    auth = settings.auth.model_copy(update={"tokens": (*settings.auth.tokens, known)})
    return settings.model_copy(update={"auth": auth})


def _read(path: Path) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_mode & _OTHERS:
            raise SettingsRefused(f"auth.token_file: others may read {path}: chmod 600 {path}")
        token = file.read(MAX_BYTES + 1).decode("ascii", "replace").strip()
    if not MIN_LENGTH <= len(token) <= MAX_BYTES or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsRefused(
            f"auth.token_file: {path} holds no token (one line of at least {MIN_LENGTH} characters): "
            "remove it, and one is made at the next start"
        )
    return token


def _made(path: Path) -> str:
    """Whole or not at all: an interrupted first start must not leave an empty file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = new_token()
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{token}\n")
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)
    return token
