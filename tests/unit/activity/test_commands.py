"""Command lines without their secrets."""

from __future__ import annotations

import time

import pytest

from flow_manager.activity.commands import MAX_ARGUMENT, in_one_line, masked_command
from flow_manager.activity.redact import MASK, Masker


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["ls", "-l", "/tmp"], ["ls", "-l", "/tmp"]),
        (["psql", "--password=hunter2"], ["psql", f"--password={MASK}"]),
        (["tool", "--token", "abc", "--verbose", "x"], ["tool", "--token", MASK, "--verbose", "x"]),
        (["tool", "--password", "--force"], ["tool", "--password", "--force"]),
        (["env", "PGPASSWORD=x", "A=b"], ["env", f"PGPASSWORD={MASK}", "A=b"]),
        (["sh", "-c", "PGPASSWORD='a b' psql; A=1 x"], ["sh", "-c", f"PGPASSWORD={MASK} psql; A=1 x"]),
        (["curl", "http://u:secret@h/"], ["curl", f"http://u:{MASK}@h/"]),
        (
            ["sh", "-c", 'x"TOKEN=a b" ---token=b .PASSWORD=c 1PASSWORD=d é-PASSWORD=e KEYBOARD=f'],
            [
                "sh",
                "-c",
                f'x"TOKEN={MASK} b" ---token={MASK} .PASSWORD={MASK} 1PASSWORD={MASK} é-PASSWORD={MASK} KEYBOARD=f',
            ],
        ),
        (["echo", "supersecretvalue!"], ["echo", f"{MASK}!"]),
    ],
)
def test_what_its_place_or_its_value_tells_to_be_secret_is_masked(argv: list[str], shown: list[str]) -> None:
    masker = Masker()
    masker.add_secret("supersecretvalue")
    assert masked_command(argv, masker) == shown


def test_a_long_argument_is_cut_and_leaves_no_half_of_a_secret() -> None:
    masker = Masker()
    masker.add_secret("supersecretvalue")
    (shown,) = masked_command(["x" * (MAX_ARGUMENT - 8) + "supersecretvalue" + "y" * 100_000], masker)
    assert len(shown) <= MAX_ARGUMENT and "super" not in shown


def test_a_line_is_as_one_would_type_it() -> None:
    assert in_one_line(["sh", "-c", "a b"], 100) == "sh -c 'a b'"
    assert in_one_line(["x" * 50], 10) == "x" * 9 + "…"


def test_long_words_take_no_longer_than_their_length() -> None:
    began = time.process_time()
    masked_command(["a" * (4 * MAX_ARGUMENT)] * 30, Masker())
    assert time.process_time() - began < 1
