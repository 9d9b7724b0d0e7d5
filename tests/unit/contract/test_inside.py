"""What is asked of the inside of a flow, where it is odd."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from flow_manager.contract import inside
from flow_manager.contract.replies import failure
from flow_manager.errors import TooManyStreams


@pytest.mark.parametrize(
    "since", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "nan", "1e400", 1e300, -1e11, "", True, []]
)
def test_a_time_that_there_is_not_is_refused_and_is_no_fault(since: Any) -> None:
    for model in (inside.GetLogs, inside.FollowLogs):
        with pytest.raises(ValidationError):
            model.model_validate({"container_id": "f", "since": since})


@pytest.mark.parametrize("model", [inside.ExecContainer, inside.AttachContainer])
def test_a_command_has_a_name(model: Any) -> None:
    with pytest.raises(ValidationError):
        model.model_validate({"container_id": "f", "command": [""]})


def test_no_path_holds_a_nul() -> None:
    with pytest.raises(ValidationError):
        inside.UpdateContainer.model_validate({"container_id": "f", "code_path": "/a\0b"})


def test_whoever_has_too_many_streams_is_told_when_to_try_again() -> None:
    assert failure(TooManyStreams("too many", limit=2))["details"] == {"limit": 2, "retry_after": 1}
