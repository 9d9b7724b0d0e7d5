"""Who connects: static tokens, or the one principal of an open service on loopback."""

from __future__ import annotations

from typing import Any

from flow_manager.contract.principal import LOCAL, Principal
from flow_manager.errors import SettingsRefused, Unauthorized
from flow_manager.settings.models import AuthSettings, Settings
from flow_manager.util.hosts import is_loopback
from flow_manager.util.tokens import token_matches

# Longer than any token that `token create` makes; what is longer isn't hashed.
MAX_TOKEN = 1024


class Authenticator:
    """Identity comes from the verified token alone, never from headers or from what a client says of itself."""

    def __init__(self, settings: AuthSettings) -> None:
        self._tokens = tuple(
            (token.hash, Principal(token.name, token.tenant, frozenset(token.scopes))) for token in settings.tokens
        )

    @property
    def open(self) -> bool:
        return not self._tokens

    def authenticate(self, auth: Any) -> Principal:
        """`auth` is the payload of CONNECT, `{"token": "…"}`.

        :raises Unauthorized: in the same words whether there was no token or a wrong one.
        """
        if self.open:
            return LOCAL
        token = auth.get("token") if isinstance(auth, dict) else None
        found: Principal | None = None
        if isinstance(token, str) and 0 < len(token) <= MAX_TOKEN:
            for hashed, principal in self._tokens:
                # No early end: the time taken does not tell which token was tried.
                if token_matches(token, hashed):
                    found = principal
        if found is None:
            raise Unauthorized("a valid token is needed: auth = {token: …}")
        return found


def check_open_mode(settings: Settings) -> None:
    """:raises SettingsRefused: when nobody would be asked for a token on an address that others can reach."""
    if not settings.auth.tokens and not is_loopback(settings.host.strip("[]").lower()):
        raise SettingsRefused(
            f"host = {settings.host!r}: without tokens the service listens on loopback only, because whoever reaches it "
            "can run containers. Make one with `flow-manager token create` and put its hash into [auth] tokens, "
            "or use host = '127.0.0.1'."
        )
