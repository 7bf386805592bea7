"""Settings from the environment."""

import pytest

from composer.core.assets import ROOT
from composer.core.errors import ComposerError
from composer.ui.settings import VARIABLES, Settings, parse


def test_nothing_set_is_the_default_at_home():
    assert Settings.from_env({}) == Settings(folders=True)


def test_every_variable_is_read():
    env = {
        "HOST": "0.0.0.0",
        "PORT": "8000",
        "COMPOSER_CATALOG": "mine.yaml",
        "COMPOSER_BASE": "big",
        "COMPOSER_MAX_PROMPT_CHARS": "100",
        "COMPOSER_MAX_NEW_TOKENS": "20",
        "COMPOSER_TIME_LIMIT": "2.5",
        "COMPOSER_SLOTS": "7",
        "COMPOSER_KV_TOKENS": "4096",
        "COMPOSER_QUEUE_SIZE": "3",
        "COMPOSER_MAX_ADDED": "0",
        "COMPOSER_VISITOR_MB": "10",
        "COMPOSER_ADDED_MB": "20",
        "COMPOSER_ADDED_DISK_MB": "30",
        "COMPOSER_LOCAL_FOLDERS": "yes",
        "COMPOSER_UPDATES": "5",
        "COMPOSER_INT8": "1",
        "COMPOSER_COMPILE": "no",
        "COMPOSER_MAX_ADAPTER_MB": "310.5",
        "COMPOSER_MAX_BASES": "3",
        "COMPOSER_VISITOR_TOKENS": "4000",
        "COMPOSER_ALL_TOKENS": "9000",
        "COMPOSER_VISITOR_TEXTS": "2",
        "COMPOSER_MAX_UPLOAD_MB": "5",
        "COMPOSER_LOGIN": "class:a:b",
        "COMPOSER_REPLICAS": "4",
    }
    assert set(env) == set(VARIABLES)
    written = ("mine.yaml", "big", "0.0.0.0", 8000, 100, 20, 2.5, 7, 4096, 3, 0, 10, 20, 30, True, 5.0, True)
    more = (False, 310.5, 3, 4000, 9000, 2, 5, ("class", "a:b"), 4)
    assert Settings.from_env(env) == Settings(*written, *more)


@pytest.mark.parametrize("env", [{"SPACE_ID": "a/b"}, {"HOST": "0.0.0.0"}])
def test_local_folders_are_closed_to_visitors(env):
    assert Settings.from_env(env).folders is False


def test_a_space_listens_on_all_addresses():
    assert Settings.from_env({"SPACE_ID": "a/b"}).host == "0.0.0.0"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "seven"),
        ("PORT", "0"),
        ("COMPOSER_MAX_NEW_TOKENS", "1.5"),
        ("COMPOSER_TIME_LIMIT", "nan"),
        ("COMPOSER_SLOTS", "0"),
        ("COMPOSER_QUEUE_SIZE", "-1"),
        ("COMPOSER_MAX_ADAPTER_MB", "0"),
        ("COMPOSER_MAX_BASES", "0"),
        ("COMPOSER_MAX_ADAPTER_MB", "300 MB"),
        ("COMPOSER_LOCAL_FOLDERS", "maybe"),
        ("COMPOSER_LOGIN", "secret"),
        ("COMPOSER_LOGIN", "class:"),
    ],
)
def test_a_wrong_value_names_its_variable(name, text):
    with pytest.raises(ComposerError, match=name):
        Settings.from_env({name: text})


def test_a_login_is_not_quoted():
    with pytest.raises(ComposerError) as fault:
        Settings.from_env({"COMPOSER_LOGIN": "hunter2"})
    assert "hunter2" not in str(fault.value)


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_has_an_option_that_reads_the_same(name):
    text = {"HOST": "0.0.0.0", "PORT": "8000", "COMPOSER_TIME_LIMIT": "2.5", "COMPOSER_LOGIN": "a:b"}.get(
        name, "1"
    )
    option = f"--{name.removeprefix('COMPOSER_').lower().replace('_', '-')}"
    assert parse([option, text], {}) == (Settings.from_env({name: text}), False)
    assert parse([option, text], {name: "overruled"}) == (Settings.from_env({name: text}), False)


def test_a_host_given_as_an_option_closes_local_folders():
    assert parse(["--host", "0.0.0.0"], {})[0].folders is False
    assert parse([], {"SPACE_ID": "a/b"})[0] == Settings(host="0.0.0.0")


def test_empty_variables_are_as_good_as_none():
    assert Settings.from_env(dict.fromkeys(VARIABLES, " ")) == Settings(folders=True)


def test_the_documentation_has_every_setting():
    written = (ROOT / "docs/serving.md").read_text("utf-8")
    assert all(f"`{variable}`" in written for variable in VARIABLES)
