"""The names of the settings, as flags, variables and files spell them."""

from __future__ import annotations

import pytest

from flow_manager.settings.names import all_settings, dotted, find, flag, nearest, shape, variable


def test_every_setting_that_is_listed_can_be_found_again() -> None:
    listed = [path for path, _field in all_settings()]
    assert ("activity", "keep") in listed
    assert ("runtimes", "<name>", "url") in listed
    for path in listed:
        find(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("auth",), "section"),
        (("runtimes",), "table"),
        (("auth", "tokens"), "objects"),
        (("auth", "hosts"), "list"),
        (("port",), "scalar"),
    ],
)
def test_a_setting_is_a_section_a_table_a_list_or_a_value(path: tuple[str, ...], expected: str) -> None:
    assert shape(find(path)) == expected


def test_one_name_has_three_spellings() -> None:
    path = ("activity", "keep_for")
    assert (dotted(path), variable(path), flag(path)) == (
        "activity.keep_for",
        "FLOW_MANAGER_ACTIVITY__KEEP_FOR",
        "--activity-keep-for",
    )


def test_the_nearest_of_a_setting_is_itself() -> None:
    for path, _field in all_settings():
        assert nearest(path) == path


def test_what_lies_below_a_value_does_not_exist() -> None:
    with pytest.raises(KeyError):
        find(("port", "number"))
