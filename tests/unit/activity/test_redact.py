from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow_manager.activity import redact
from flow_manager.activity.redact import (
    MASK,
    MAX_LINES,
    Masker,
    looks_secret,
    mask_url_passwords,
    secrets_of_environment,
)
from flow_manager.util.strict_json import dumps, loads


@pytest.mark.parametrize(
    "name",
    [
        "PASSWORD", "db_password", "DB_PASSWD", "MYSQL_ROOT_PASSWORD", "PGPASSWORD", "dbPassword", "SMTP_PASS", "DB_PWD",
        "SECRET", "CLIENT_SECRET", "clientSecret", "SECRETS", "API_KEY", "APIKEY", "apiKey", "APIKey", "api-key", "API_KEY_2",
        "STRIPE_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "PRIVATE_KEY", "privateKey", "SECRET_KEY_BASE", "TOKEN",
        "GITHUB_TOKEN", "GHTOKEN", "accessToken", "X-Auth-Token", "AUTH", "Authorization", "CREDENTIAL", "credentials",
        "COOKIE", "Set-Cookie", "session_cookies", "SSH_PASSPHRASE", "MY_JWT",
    ],
)  # fmt: skip
def test_a_name_that_hides_something(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "AUTHOR", "AUTHORS", "KEYBOARD", "KEY", "MONKEY", "PUBLIC_KEY", "SORT_KEY", "PRIMARY_KEY", "PWD", "OLDPWD", "PATH",
        "COMPASS", "BYPASS", "PASSENGER", "TOKENIZER", "SECRETARY", "message", "exit_code", "image", "operation", "",
        "COOKIECUTTER", "HOME", "tokenize_text", "étude",
    ],
)  # fmt: skip
def test_a_name_that_hides_nothing(name: str) -> None:
    assert not looks_secret(name)


def test_an_environment_is_masked_by_name_by_url_and_by_known_value() -> None:
    masker = Masker()
    masker.add_secret("correct horse")
    assert masker.mask_environment(
        {
            "DB_PASSWORD": "x",
            "EMPTY_TOKEN": "",
            "AUTHOR": "alice",
            "DATABASE_URL": "postgres://app:hunter2@db:5432/x?sslmode=off",
            "REDIS": "redis://:pw@cache/0",
            "GIT": "ssh://git@example/x",
            "HINT": "it is correct horse, really",
        }
    ) == {
        "DB_PASSWORD": MASK,
        "EMPTY_TOKEN": "",
        "AUTHOR": "alice",
        "DATABASE_URL": f"postgres://app:{MASK}@db:5432/x?sslmode=off",
        "REDIS": f"redis://:{MASK}@cache/0",
        "GIT": "ssh://git@example/x",
        "HINT": f"it is {MASK}, really",
    }


def test_the_secrets_of_an_environment_are_whole_values_and_passwords_in_urls() -> None:
    environment = {"API_TOKEN": "abcdefgh", "AUTHOR": "alice", "DSN": "https://u:hunter22@example/1"}
    assert set(secrets_of_environment(environment)) == {"abcdefgh", "hunter22"}


def test_known_values_are_masked_wherever_they_stand_the_longest_first() -> None:
    masker = Masker()
    for value in ("abcdef", "abcdefghij", "ghijkl", "12345"):
        masker.add_secret(value)
    assert masker.mask_text("abcdefghij abcdef xabcdefx ghijkl 12345") == f"{MASK} {MASK} x{MASK}x {MASK} 12345"
    assert masker.mask_text("abcdeabcdef") == f"abcde{MASK}"
    assert masker.mask_text("") == ""


def test_a_value_is_found_in_json_text_and_out_of_a_url_too() -> None:
    masker = Masker()
    secret = 'quo"te\\back\nline ü'
    masker.add_secret(secret + "\n")
    masker.add_secret("p%40ss%2Fword")
    for text in (secret, json.dumps(secret), json.dumps(secret, ensure_ascii=False), "p@ss/word", "p%40ss%2Fword"):
        assert MASK in masker.mask_text(text)
        assert "te\\back" not in masker.mask_text(text) and "ss" not in masker.mask_text(text)


def test_a_value_stays_known_until_it_was_taken_back_as_often_as_given() -> None:
    masker = Masker()
    flow = {"TOKEN": "abcdefgh"}
    masker.add_environment(flow)
    masker.add_environment(flow)
    masker.remove_environment(flow)
    assert masker.mask_text("abcdefgh") == MASK
    masker.remove_environment(flow)
    masker.remove_environment(flow)
    assert masker.mask_text("abcdefgh") == "abcdefgh"


def test_taking_one_value_back_leaves_another_of_the_same_beginning_or_form() -> None:
    masker = Masker()
    for value in ("abcdef-one", "abcdef-two", "a%20bcdefgh", "a bcdefgh"):
        masker.add_secret(value)
    masker.remove_secret("abcdef-one")
    masker.remove_secret("a%20bcdefgh")
    assert masker.mask_text("abcdef-one abcdef-two") == f"abcdef-one {MASK}"
    assert masker.mask_text("a bcdefgh a%20bcdefgh") == f"{MASK} a%20bcdefgh"
    masker.remove_secret("abcdef-two")
    masker.remove_secret("a bcdefgh")
    masker.remove_secret("never given")
    assert not masker._forms and not masker._uses and not masker._given  # nothing is kept for ever


def test_data_is_masked_by_key_and_by_value_at_any_depth_and_not_in_place() -> None:
    masker = Masker()
    masker.add_secret("hunter22")
    data = {
        "password": ["a", {"b": 1}],
        "nested": [
            {"apiKey": "12345", "tokens": 12, "note": "say hunter22", "auth": None, "token": True, "secret": ""}
        ],
        "hunter22": (1, 2.5),
    }
    before = json.dumps(data)
    assert masker.mask(data) == {
        "password": MASK,
        "nested": [{"apiKey": MASK, "tokens": 12, "note": f"say {MASK}", "auth": None, "token": True, "secret": ""}],
        MASK: [1, 2.5],
    }
    assert json.dumps(data) == before


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.characters(categories=["Cs"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=30,
)


@given(ANYTHING)
def test_whatever_comes_in_comes_out_as_strict_json(data: Any) -> None:
    masked = Masker().mask(data)
    assert loads(dumps(masked)) == masked


def test_data_that_is_too_deep_is_cut_off_there() -> None:
    deep: Any = "bottom"
    for _ in range(500):
        deep = [deep]
    assert loads(dumps(Masker().mask(deep)))


def test_infinite_numbers_become_null_and_huge_ones_text() -> None:
    assert Masker().mask([math.inf, math.nan, 2**60]) == [None, None, str(2**60)]


@given(st.text(min_size=6, max_size=20).filter(lambda text: len(text.strip()) >= 6), st.text(), st.text())
def test_no_known_value_ever_passes(secret: str, before: str, after: str) -> None:
    masker = Masker()
    masker.add_secret(secret)
    if "\ufffd" not in secret and MASK not in secret:
        assert secret.strip() not in masker.mask_text(before + secret + after).replace(MASK, "\x00")


def timed(masker: Masker, text: str) -> float:
    begun = time.perf_counter()
    for _ in range(200):
        masker.mask_text(text)
    return (time.perf_counter() - begun) / 200 * 1e6


def test_figures() -> None:
    def some() -> Iterator[str]:
        return (f"{n * 7919:032x}"[::-1] for n in range(1, 1501))

    masker = Masker()
    text = "flow *reports* says: the run of last night has ended, 12,345 rows were written in 12 s, none was refused"
    print(f"100 characters, no secrets: {timed(masker, text):.1f} µs")
    for value in some():
        masker.add_secret(value)
    print(f"100 characters, 1,500 secrets: {timed(masker, text):.1f} µs")


@pytest.mark.parametrize("before", range(9))
@pytest.mark.parametrize("after", range(5))
def test_a_value_is_found_wherever_it_stands(before: int, after: int) -> None:
    masker = Masker()
    masker.add_secret("s3cr3t")
    masker.add_secret("s3cr3t-and-more")
    masker.remove_secret("s3cr3t-and-more")
    assert masker.mask_text("." * before + "s3cr3t" + "," * after) == "." * before + "***" + "," * after
    masker.remove_secret("s3cr3t")
    assert masker.mask_text("." * before + "s3cr3t") == "." * before + "s3cr3t"
    assert not masker._hints


def test_a_value_of_several_lines_is_masked_line_by_line() -> None:
    masker = Masker()
    masker.add_environment({"TLS_PRIVATE_KEY": "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----\n"})
    assert masker.mask_text("MIIEvQIBADANBg") == "***"
    assert masker.mask_text("key: -----BEGIN KEY-----") == "key: ***"


@pytest.mark.parametrize("text", ["a" * 60_000 + " ://", "://u:" + "c" * 60_000, "://" * 60_000, "a://b:" * 60_000])
def test_looking_for_passwords_in_urls_takes_no_longer_than_the_text(text: str) -> None:
    began = time.process_time()
    mask_url_passwords(text)
    assert time.process_time() - began < 1


def test_a_name_of_any_length_is_judged_at_once_and_only_those_of_people_are_remembered() -> None:
    before = redact._looks_secret.cache_info().currsize
    began = time.process_time()
    assert not looks_secret("Xy" * 500_000)
    assert looks_secret("Xy" * 500_000 + "_PASSWORD")
    assert time.process_time() - began < 1
    assert redact._looks_secret.cache_info().currsize == before


def test_a_secret_of_very_many_lines_costs_its_length() -> None:
    lines = [f"begin-{number}" for number in range(20_000)]
    masker = Masker()
    began = time.process_time()
    masker.add_secret("\n".join(lines))
    assert masker.mask_text(f"<{lines[0]}> <{lines[MAX_LINES - 1]}>") == f"<{MASK}> <{MASK}>"
    assert masker.mask_text("\n".join(lines)) == MASK
    masker.remove_secret("\n".join(lines))
    assert time.process_time() - began < 1
    assert masker.mask_text(lines[0]) == lines[0]


def test_very_many_secrets_that_begin_alike_are_known_found_and_forgotten_in_time() -> None:
    environment = {f"TOKEN_{number}": f"secret{number}" for number in range(10_000)}
    masker = Masker()
    began = time.process_time()
    masker.add_environment(environment)
    assert masker.mask_text("secret9999 secret12345 secret- secret") == f"{MASK} {MASK}5 secret- secret"
    assert masker.mask_text("secret " * 1000 + "secret77") == "secret " * 1000 + MASK
    masker.remove_environment({name: environment[name] for name in list(environment)[100:]})
    assert masker.mask_text("secret99 secret100") == f"{MASK} {MASK}0"
    masker.remove_environment(environment)
    assert time.process_time() - began < 2
    assert masker.mask_text("secret99 secret100") == "secret99 secret100"
    assert not masker._forms and not masker._hints and not masker._uses
