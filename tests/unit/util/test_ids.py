"""Ids that are names of sockets, hosts and containers at once."""

from __future__ import annotations

from flow_manager.util.ids import derived_flow_id, is_flow_id, new_flow_id, new_short_id, new_token


def test_a_new_id_is_twelve_characters_of_lower_case_base32_and_never_the_same() -> None:
    ids = {new_flow_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(is_flow_id(flow_id) for flow_id in ids)


def test_a_derived_id_depends_on_each_part_and_its_place() -> None:
    one = derived_flow_id("docker", "project", "web")
    assert one == derived_flow_id("docker", "project", "web")
    assert is_flow_id(one)
    assert len({one, derived_flow_id("docker", "projectweb", ""), derived_flow_id("docker", "web", "project")}) == 3


def test_what_is_no_id_is_known() -> None:
    assert not any(is_flow_id(text) for text in ("", "abc", "a" * 13, "A" * 12, "aaaaaaaaaaa1", "aaaaaaaaaaaa\n"))


def test_tokens_and_short_ids_are_new_each_time() -> None:
    assert new_token() != new_token()
    assert new_short_id("msg").startswith("msg-") and new_short_id("a") != new_short_id("a")
