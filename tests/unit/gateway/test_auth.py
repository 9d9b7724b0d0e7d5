from __future__ import annotations

from pathlib import Path

import pytest

from flow_manager.contract.principal import LOCAL
from flow_manager.errors import SettingsRefused, Unauthorized
from flow_manager.gateway.auth import Authenticator, check_open_mode
from flow_manager.settings.models import AuthSettings, Settings
from flow_manager.util.tokens import hash_token

TOKENS = {
    "tokens": [
        {"name": "a", "hash": hash_token("one")},
        {"name": "b", "hash": hash_token("two"), "tenant": "t", "scopes": ["read"]},
    ]
}


@pytest.mark.parametrize("auth", [None, {}, {"token": "anything"}, "text", 5])
def test_an_open_service_knows_one_principal(auth):
    assert Authenticator(AuthSettings()).authenticate(auth) is LOCAL


def test_a_token_names_its_principal():
    authenticator = Authenticator(AuthSettings(**TOKENS))
    principal = authenticator.authenticate({"token": "two"})
    assert (principal.name, principal.tenant, principal.scopes) == ("b", "t", frozenset({"read"}))
    assert authenticator.authenticate({"token": "one"}).name == "a"


@pytest.mark.parametrize(
    "auth",
    [
        None,
        {},
        [],
        "one",
        {"token": None},
        {"token": ["one"]},
        {"token": ""},
        {"token": "One"},
        {"token": "x" * 2000},
        {"token": hash_token("one")},
    ],
)
def test_anything_else_is_refused(auth):
    with pytest.raises(Unauthorized):
        Authenticator(AuthSettings(**TOKENS)).authenticate(auth)


@pytest.mark.parametrize(
    ("host", "tokens", "refused"),
    [
        ("127.0.0.1", False, False),
        ("127.0.0.2", False, False),
        ("localhost", False, False),
        ("::1", False, False),
        ("[::1]", False, False),
        ("0.0.0.0", False, True),
        ("::", False, True),
        ("", False, True),
        ("10.0.0.1", False, True),
        ("flows.example", False, True),
        ("localhost.evil.example", False, True),
        ("0.0.0.0", True, False),
    ],
)
def test_without_tokens_only_loopback_is_listened_on(host, tokens, refused):
    settings = Settings(
        host=host, state_dir=Path("/x"), sockets_dir=Path("/x"), auth=AuthSettings(**(TOKENS if tokens else {}))
    )
    if refused:
        with pytest.raises(SettingsRefused, match="token create"):
            check_open_mode(settings)
    else:
        check_open_mode(settings)
