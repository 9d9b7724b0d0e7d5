from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from flow_manager.activity.drafts import (
    MAX_DETAILS_BYTES,
    MAX_MESSAGE,
    dropped_entries,
    one_line,
    ready_to_store,
    recovered_entries,
)
from flow_manager.activity.redact import MASK, Masker
from flow_manager.errors import DiskFull
from flow_manager.store.base import ActivityDraft
from flow_manager.util.clock import SystemClock
from flow_manager.util.strict_json import dumps_bytes

Draft = Callable[..., ActivityDraft]
AT = datetime(2026, 1, 19, tzinfo=UTC)


def ready(draft: ActivityDraft, masker: Masker | None = None) -> ActivityDraft:
    return ready_to_store(draft, masker or Masker(), SystemClock())


def test_text_becomes_one_line_that_steers_no_terminal() -> None:
    assert one_line("a\nb\tc\x1b[31m\x00\u2028d\x85", Masker(), 100) == "a b c\\x1b[31m\\x00 d\\x85"


def test_a_secret_at_the_cut_leaves_no_half() -> None:
    masker = Masker()
    masker.add_secret("supersecretvalue")
    shown = one_line("x" * 95 + "supersecretvalue", masker, 100)
    assert len(shown) <= 100 and "super" not in shown


def test_everything_in_an_entry_is_masked(draft: Draft) -> None:
    masker = Masker()
    masker.add_secret("hunter22")
    made = ready(
        draft(message="pull of hunter22@reg", name="hunter22", actor="hunter22", details={"a": ["hunter22"]}), masker
    )
    assert "hunter22" not in repr(made)
    assert made.details == {"a": [MASK]}


def test_a_long_message_is_cut(draft: Draft) -> None:
    message = ready(draft(message="ü" * 5000)).message
    assert len(message) == MAX_MESSAGE and message.endswith("…")


def test_large_details_lose_what_is_large_and_say_so(draft: Draft) -> None:
    details = {"operation": "start", "body": {"text": "x" * 100_000}, "exit_code": 3, "token": "abc"}
    made = ready(draft(details=details)).details
    assert made["operation"] == "start" and made["exit_code"] == 3 and made["token"] == MASK
    assert "body" not in made and made["truncated"] is True and made["size"] > 100_000


def test_a_thousand_middling_details_stay_within_the_bound(draft: Draft) -> None:
    made = ready(draft(details={str(n): "x" * 100 for n in range(1000)})).details
    assert made["truncated"] is True
    assert MAX_DETAILS_BYTES // 2 < len(dumps_bytes(made)) < MAX_DETAILS_BYTES * 2


def test_details_that_are_no_json_are_made_so(draft: Draft) -> None:
    made = ready(draft(details={"at": AT, "n": float("nan"), "s": "\ud800", "big": 2**70, 5: {1}}))
    assert made.details == {"at": str(AT), "n": None, "s": "\ufffd", "big": str(2**70), "5": [1]}


def test_an_entry_without_a_time_gets_one(draft: Draft) -> None:
    made = ready(draft(timestamp=None))
    assert made.timestamp is not None and made.timestamp.tzinfo is UTC
    assert ready(draft(timestamp=AT)).timestamp == AT


def test_each_tenant_is_told_of_its_own_dropped_entries() -> None:
    one, two = dropped_entries({"a": {"container_message": 3, "image_pulling": 2}, "b": {"container_message": 1}}, AT)
    assert (one.tenant, one.type, one.details["dropped"]) == (
        "a", "operation_failed", {"container_message": 3, "image_pulling": 2},
    )  # fmt: skip
    assert one.message == "5 activity entries were dropped: more came than could be stored"
    assert two.message.startswith("1 activity entry was dropped")


def test_each_tenant_is_told_that_storing_works_again() -> None:
    entries = recovered_entries({"b", "a"}, DiskFull("the disk is full"), AT)
    assert [(item.tenant, item.type) for item in entries] == [
        ("a", "operation_recovered"),
        ("b", "operation_recovered"),
    ]
    assert "the disk is full" in entries[0].message
