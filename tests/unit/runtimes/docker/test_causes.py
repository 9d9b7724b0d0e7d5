from __future__ import annotations

import pytest

from flow_manager.runtimes.docker.causes import NANO, Causes

SECOND = NANO
HOUR = 3600 * NANO

# (what the engine tells, each as (action, argument, at), the stop signal) → (cause, whether a later `stop` event corrects it)
LIVES = [
    ("ends by itself", [("die", 1, 5)], "exit", True),
    ("docker stop", [("kill", "SIGTERM", 1), ("die", 143, 2)], "stop", False),
    ("docker stop of a polite one", [("kill", "SIGTERM", 1), ("die", 0, 2)], "stop", False),
    ("docker stop of a stubborn one", [("kill", "SIGTERM", 1), ("kill", "SIGKILL", 11), ("die", 137, 12)], "stop", False),
    ("docker kill", [("kill", "SIGKILL", 1), ("die", 137, 1)], "stop", False),
    ("its own stop signal", [("kill", "SIGUSR2", 1), ("die", 0, 2)], "stop", False),
    ("a hint to read settings, then a crash", [("kill", "SIGHUP", 1), ("die", 1, 2)], "exit", True),
    ("a TERM that it ignored, and an end an hour later", [("kill", "SIGTERM", 1), ("die", 1, 3600)], "exit", True),
    ("a slow end by that very TERM", [("kill", "SIGTERM", 1), ("die", 143, 300)], "stop", False),
    ("out of memory", [("oom", None, 1), ("die", 137, 1)], "oom", False),
    ("out of memory while it is stopped", [("kill", "SIGTERM", 1), ("oom", None, 2), ("die", 137, 2)], "oom", False),
    ("stopped by us", [("ours", None, 0), ("kill", "SIGTERM", 1), ("die", 143, 2)], None, False),
    ("stopped by us, and at the same time by a person", [("ours", None, 0), ("kill", "SIGTERM", 1), ("kill", "SIGKILL", 2), ("die", 137, 2)], "stop", False),
    ("our signal could not be sent", [("ours", None, 0), ("not", None, 0), ("kill", "SIGTERM", 1), ("die", 143, 2)], "stop", False),
    ("stopped in an earlier life", [("kill", "SIGTERM", 1), ("die", 143, 2), ("start", None, 3), ("die", 1, 4)], "exit", True),
]  # fmt: skip


@pytest.mark.parametrize(("told", "cause", "corrected"), [life[1:] for life in LIVES], ids=[life[0] for life in LIVES])
def test_the_cause_is_put_together_from_what_the_engine_tells(
    told: list[tuple[str, object, int]], cause: str | None, corrected: bool
) -> None:
    causes = Causes()
    found: list[str | None] = []
    for action, argument, at in told:
        if action == "kill":
            causes.signalled("c", str(argument), at * SECOND, stop_signal="SIGUSR2")
        elif action == "die":
            assert argument is None or isinstance(argument, int)
            found.append(causes.ended("c", argument, at * SECOND))
        elif action == "oom":
            causes.out_of_memory("c")
        elif action == "start":
            causes.started("c")
        elif action == "ours":
            causes.announce("c")
        else:
            causes.withdraw("c")
    assert found[-1] == cause
    assert causes.stopped("c") is corrected
    assert causes.stopped("c") is False, "it is corrected once"


def test_containers_are_not_mixed_up() -> None:
    causes = Causes()
    causes.signalled("a", "SIGTERM", SECOND)
    causes.announce("b")
    assert causes.ended("b", 1, SECOND) == "exit"
    assert causes.ended("a", 143, SECOND) == "stop"


def test_a_stop_event_of_what_was_never_seen_to_end_says_nothing() -> None:
    causes = Causes()
    assert causes.stopped("c") is False
    causes.signalled("c", "SIGTERM", SECOND)
    assert causes.stopped("c") is False


def test_nothing_is_kept_of_one_that_is_gone() -> None:
    causes = Causes()
    causes.announce("c")
    causes.signalled("c", "SIGTERM", SECOND)
    causes.forget("c")
    assert causes.ended("c", 1, SECOND) == "exit"
