"""The state folder has one user, and one name for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from flow_manager.errors import SettingsRefused, StateFolderLocked
from flow_manager.store.folder import StateFolder
from flow_manager.util.ids import is_flow_id


def test_two_managers_cannot_have_one_folder(tmp_path: Path) -> None:
    first, second = StateFolder(tmp_path), StateFolder(tmp_path)
    first.open()
    with pytest.raises(StateFolderLocked, match="used by another flow-manager"):
        second.open()
    first.close()
    second.open()
    second.close()


def test_it_is_closed_to_other_users(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "a" / "b")
    folder.open()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    folder.close()


def test_the_identity_is_made_once_and_a_setting_overrides_it(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    made = folder.instance(None)
    assert is_flow_id(made)
    assert folder.instance(None) == made == StateFolder(tmp_path).instance(None)
    assert folder.instance("mine") == "mine"


def test_a_folder_that_cannot_be_used_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsRefused, match="--state-dir"):
        StateFolder(tmp_path / "file" / "state").open()
