"""Settings: which source wins, what is refused and in which words, and the folders chosen when none is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flow_manager.errors import SettingsRefused
from flow_manager.settings.load import load, load_with_notes

HASH = "sha256:" + "a" * 64
HOME = {"HOME": "/home/someone"}


@pytest.fixture
def toml(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return path

    return write


def refusal(flags: dict[str, Any], environ: dict[str, str], config: Path | None = None) -> str:
    with pytest.raises(SettingsRefused) as caught:
        load(flags, {**HOME, **environ}, config)
    return str(caught.value)


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(toml) -> None:
    config = toml("port = 1\nproxy_port = 1\nhost = '127.0.0.2'\n")
    settings = load({"port": 3}, {**HOME, "FLOW_MANAGER_PORT": "2", "FLOW_MANAGER_PROXY_PORT": "2"}, config)
    assert (settings.port, settings.proxy_port, settings.host) == (3, 2, "127.0.0.2")


def test_a_form_is_told_in_words_instead_of_a_pattern(toml) -> None:
    words = refusal(
        {}, {}, toml("[auth]\ntokens = [{ name = 'a', hash = 'sha256:x' }]\n[channel]\ntls_listen = '8082'\n")
    )
    assert "flow-manager token create" in words
    assert "tls_listen" in words
    assert "host:port is wanted" in words
    assert "pattern" not in words


def test_a_wildcard_that_no_flow_can_connect_to_is_refused_where_settings_are_read(toml) -> None:
    assert "channel.tls_address" in refusal({}, {}, toml("[channel]\ntls_listen = '0.0.0.0:8082'\n"))


def test_a_flag_that_was_not_given_takes_nothing_away() -> None:
    assert load({"port": None}, {**HOME, "FLOW_MANAGER_PORT": "2"}).port == 2


@pytest.mark.parametrize(
    ("name", "text", "path", "expected"),
    [
        ("FLOW_MANAGER_ACTIVITY__KEEP", "10", "activity.keep", 10),
        ("FLOW_MANAGER_ACTIVITY__KEEP_FOR", "2d", "activity.keep_for", 172800),
        ("FLOW_MANAGER_AUTH__HOSTS", "a.example, b.example", "auth.hosts", ("a.example", "b.example")),
        ("FLOW_MANAGER_AUTH__HOSTS", '["a.example"]', "auth.hosts", ("a.example",)),
        ("FLOW_MANAGER_POLICY__IMAGES", "", "policy.images", ()),
        ("FLOW_MANAGER_POLICY__VOLUME_ROOTS", "/srv,/data", "policy.volume_roots", (Path("/srv"), Path("/data"))),
        ("FLOW_MANAGER_LOG", '{"level": "DEBUG"}', "log.level", "DEBUG"),
        ("FLOW_MANAGER_RUNTIME", "", "runtime", None),
        ("FLOW_MANAGER_STATE_DIR", "/var/lib/x", "state_dir", Path("/var/lib/x")),
    ],
)
def test_the_environment_nests_with_two_underscores_and_takes_lists(name, text, path, expected) -> None:
    value: Any = load({}, {**HOME, name: text})
    for part in path.split("."):
        value = getattr(value, part)
    assert value == expected


def test_tokens_come_as_json_from_the_environment() -> None:
    settings = load(
        {}, {**HOME, "FLOW_MANAGER_AUTH__TOKENS": f'[{{"name": "ci", "hash": "{HASH}", "scopes": ["read"]}}]'}
    )
    assert settings.auth.tokens[0].name == "ci"
    assert settings.auth.tokens[0].scopes == frozenset({"read"})


def test_a_section_given_twice_is_merged_and_the_narrower_name_wins() -> None:
    settings = load(
        {}, {**HOME, "FLOW_MANAGER_LOG": '{"level": "DEBUG", "format": "json"}', "FLOW_MANAGER_LOG__LEVEL": "ERROR"}
    )
    assert (settings.log.level, settings.log.format) == ("ERROR", "json")


def test_a_runtime_has_a_name_of_the_users_choice(toml) -> None:
    config = toml('[runtimes.lab]\nkind = "docker"\nurl = "unix:///x.sock"\n')
    settings = load({"runtime": "lab"}, {**HOME, "FLOW_MANAGER_RUNTIMES__LAB__NETWORK": "false"}, config)
    assert settings.runtimes["lab"].url == "unix:///x.sock"
    assert settings.runtimes["lab"].network is False


@pytest.mark.parametrize("name", ["URL", "TOKEN", "DEMO_IMAGE", "REQUIRE_DOCKER", "REQUIRE_NODE"])
def test_variables_of_the_client_and_of_the_tests_are_no_settings(name: str) -> None:
    assert load({}, {**HOME, f"FLOW_MANAGER_{name}": "1"}).port == 8080


def test_the_file_may_be_named_by_the_environment(toml) -> None:
    assert load({}, {**HOME, "FLOW_MANAGER_CONFIG": str(toml("port = 99"))}).port == 99


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("FLOW_MANAGER_PORTT", "FLOW_MANAGER_PORT"),
        ("FLOW_MANAGER_ACTIVITY_KEEP", "FLOW_MANAGER_ACTIVITY__KEEP"),
        ("FLOW_MANAGER_KEEP_FOR", "FLOW_MANAGER_ACTIVITY__KEEP_FOR"),
        ("FLOW_MANAGER_ACTIVITY__KEPT", "FLOW_MANAGER_ACTIVITY__KEEP"),
        ("FLOW_MANAGER_RUNTIMES__LAB__URLL", "FLOW_MANAGER_RUNTIMES__LAB__URL"),
        ("FLOW_MANAGER_SOCKET_DIR", "FLOW_MANAGER_SOCKETS_DIR"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_that_exists(name: str, near: str) -> None:
    text = refusal({}, {name: "1"})
    assert f"environment variable {name}" in text
    assert text.endswith(f"the nearest is {near}")


def test_a_name_like_nothing_points_to_the_reference() -> None:
    assert "docs/reference/settings.md" in refusal({}, {"FLOW_MANAGER_QQQQ": "1"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot = 1", "prot (file {path}): no such setting; the nearest is port"),
        (
            "[policy]\nvolume_root = []",
            "policy.volume_root (file {path}): no such setting; the nearest is policy.volume_roots",
        ),
        (
            '[[auth.tokens]]\nname = "a"\nhsah = "x"',
            "auth.tokens.0.hsah (file {path}): no such setting; the nearest is hash",
        ),
        ("port = 70000", "port (file {path}): Input should be less than or equal to 65535"),
        ('[log]\nlevel = "LOUD"', "log.level (file {path}): Input should be 'DEBUG'"),
        ("auth = 5", "auth (file {path}): "),
        ("port = ", "file {path}: not TOML: "),
        ('[runtimes.lab]\nurl = "x"', "runtimes.lab.kind: missing: docker, process, memory or proxmox"),
        (
            '[runtimes.process]\nurl = "x"',
            "runtimes.process.url: a runtime of kind process has no such setting (docker and proxmox have)",
        ),
        ('runtime = "lba"', "runtime: no runtime 'lba'"),
        ('host = "0.0.0.0"', "host: 0.0.0.0 is not a loopback address and there are no tokens"),
        ('[policy]\npublish_address = "everywhere"', "policy.publish_address: not an IP address"),
        (f'sockets_dir = "/{"s" * 80}"', "has 81 bytes; a socket's path allows 76"),
    ],
)
def test_what_a_file_gets_wrong_is_named_with_the_file_and_the_remedy(toml, text: str, expected: str) -> None:
    config = toml(text)
    assert expected.format(path=config) in refusal({}, {}, config)


def test_an_open_host_is_taken_once_there_is_a_token(toml) -> None:
    config = toml(f'host = "0.0.0.0"\n[[auth.tokens]]\nname = "a"\nhash = "{HASH}"\n')
    assert load({}, HOME, config).host == "0.0.0.0"


def test_two_tokens_may_share_neither_name_nor_hash(toml) -> None:
    one = f'[[auth.tokens]]\nname = "a"\nhash = "{HASH}"\n'
    text = refusal({}, {}, toml(one + one))
    assert "the name 'a' is used 2 times" in text
    assert "the same hash" in text


def test_a_missing_file_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal({}, {}, tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in refusal({}, {}, binary)
    assert "cannot be read: Is a directory" in refusal({}, {}, tmp_path)


def test_every_problem_is_told_at_once_and_a_value_never() -> None:
    text = refusal(
        {"prot": 1},
        {
            "FLOW_MANAGER_AUTH__TOKENS": '[{"name": "a", "hash": "hunter2"}]',
            "FLOW_MANAGER_PORT": "hunter3",
            "FLOW_MANAGER_AUTH__ORIGINS": "[hunter4",
        },
    )
    assert text.startswith("4 settings are refused:")
    assert "hunter" not in text


def test_json_that_is_of_the_wrong_kind_is_refused() -> None:
    assert "a JSON list is wanted" in refusal({}, {"FLOW_MANAGER_AUTH__TOKENS": "{}"})
    assert "a JSON object is wanted" in refusal({}, {"FLOW_MANAGER_AUTH": "[]"})
    assert "write it as JSON" in refusal({}, {"FLOW_MANAGER_AUTH": "{"})


# --- folders ----------------------------------------------------------------------------------------------------------


def checkout(folder: Path, name: str = "flow-manager") -> Path:
    (folder / "sockets").mkdir()
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    return folder


def test_the_state_folder_follows_xdg_and_ignores_a_relative_one() -> None:
    assert load({}, {**HOME, "XDG_STATE_HOME": "/state"}).state_dir == Path("/state/flow-manager")
    assert load({}, {**HOME, "XDG_STATE_HOME": "state"}).state_dir == Path("/home/someone/.local/state/flow-manager")


def test_without_a_home_the_state_folder_must_be_given() -> None:
    with pytest.raises(SettingsRefused, match="give --state-dir"):
        load({}, {})
    assert load({"state_dir": "/s"}, {}).state_dir == Path("/s")


def test_a_relative_folder_is_made_absolute_and_a_tilde_is_the_home_folder(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    settings = load({"state_dir": "state"}, {**HOME, "FLOW_MANAGER_SOCKETS_DIR": "~/s"})
    assert settings.state_dir == tmp_path / "state"
    assert settings.sockets_dir == Path("/home/someone/s")


def test_sockets_live_in_the_checkout_when_the_service_is_run_from_one(monkeypatch) -> None:
    import tempfile

    # pytest's own folders are too long for a socket's path.
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = checkout(Path(short))
        assert load_with_notes({}, HOME, cwd=folder, uid=1000).settings.sockets_dir == folder / "sockets"


def test_another_projects_folder_is_no_checkout(tmp_path: Path) -> None:
    checkout(tmp_path, "something-else")
    assert load_with_notes({}, HOME, cwd=tmp_path, uid=1000).settings.sockets_dir == Path("/tmp/flow-manager-1000")


def test_a_user_has_the_sockets_in_the_runtime_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    loaded = load_with_notes({}, {**HOME, "XDG_RUNTIME_DIR": "/dev/shm"}, cwd=tmp_path, uid=1000)
    assert loaded.settings.sockets_dir == Path("/dev/shm/flow-manager")


def test_a_default_that_is_too_long_gives_way_to_the_next_with_a_note(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    loaded = load_with_notes({}, HOME, cwd=checkout(deep), uid=1000)
    assert loaded.settings.sockets_dir == Path("/tmp/flow-manager-1000")
    assert "not used" in loaded.notes[0]
