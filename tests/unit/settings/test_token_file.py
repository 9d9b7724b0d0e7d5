from __future__ import annotations

from pathlib import Path

import pytest

from flow_manager.errors import SettingsRefused
from flow_manager.settings.checks import contradictions
from flow_manager.settings.load import load
from flow_manager.settings.models import Settings
from flow_manager.settings.token_file import with_token_file
from flow_manager.util.tokens import hash_token, token_matches


def settings(folder: Path, **auth: object) -> Settings:
    return Settings.model_validate(
        {
            "state_dir": folder / "state",
            "sockets_dir": "/tmp/s",
            "auth": {"token_file": folder / "deep" / "token", **auth},
        }
    )


def test_it_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    first = with_token_file(settings(tmp_path))
    file = tmp_path / "deep" / "token"
    token = file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert len(token) >= 32
    (known,) = first.auth.tokens
    assert (known.name, known.tenant, known.scopes) == ("admin", "default", {"read", "write"})
    assert token_matches(token, known.hash)
    assert with_token_file(settings(tmp_path)).auth.tokens == first.auth.tokens
    assert sorted(path.name for path in file.parent.iterdir()) == ["token"]


def test_a_first_start_that_was_interrupted_is_made_good(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "token.new").write_text("")
    assert len(with_token_file(settings(tmp_path)).auth.tokens) == 1


def test_one_that_was_put_there_is_used(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "token"
    file.write_text("s" * 40 + "\n")
    file.chmod(0o600)
    (known,) = with_token_file(settings(tmp_path)).auth.tokens
    assert known.hash == hash_token("s" * 40)


@pytest.mark.parametrize("content", ["", "short", "a word and another one, both long enough", "ü" * 40, "x" * 5000])
def test_what_is_no_token_is_refused_with_the_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "token"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(SettingsRefused, match="remove it") as caught:
        with_token_file(settings(tmp_path))
    assert content not in str(caught.value) or not content


def test_one_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "token"
    file.write_text("s" * 40)
    file.chmod(0o640)
    with pytest.raises(SettingsRefused, match="chmod 600"):
        with_token_file(settings(tmp_path))


def test_a_folder_that_cannot_be_made_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("a file")
    with pytest.raises(SettingsRefused, match=r"auth\.token_file: .* can't be used"):
        with_token_file(settings(tmp_path))


def test_two_of_one_name_are_refused(tmp_path: Path) -> None:
    other = [{"name": "admin", "hash": hash_token("x")}]
    with pytest.raises(SettingsRefused, match="rename"):
        with_token_file(settings(tmp_path, tokens=other))


def test_with_it_the_service_may_listen_for_others(tmp_path: Path) -> None:
    open_ = settings(tmp_path).model_copy(update={"host": "0.0.0.0"})
    assert contradictions(open_) == []
    without = open_.model_copy(update={"auth": open_.auth.model_copy(update={"token_file": None})})
    assert any(line.startswith("host:") for line in contradictions(without))


def test_it_can_be_named_by_flag_and_variable(tmp_path: Path) -> None:
    flags = {"auth.token_file": str(tmp_path / "a"), "sockets_dir": "/tmp/s", "state_dir": str(tmp_path)}
    assert load(flags, {}).auth.token_file == tmp_path / "a"
    environ = {"FLOW_MANAGER_AUTH__TOKEN_FILE": str(tmp_path / "b")}
    assert load({**flags, "auth.token_file": None}, environ).auth.token_file == tmp_path / "b"
    assert list(tmp_path.iterdir()) == [], "reading settings makes nothing"
