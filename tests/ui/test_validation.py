"""What arrives over the wire is checked before the engine sees it."""

import math

import pytest

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.ui.settings import Settings
from composer.ui.validation import check_source, make_request

SETTINGS = Settings(max_prompt_chars=20, max_new_tokens=30, time_limit=7)


def form(**changes):
    values = {
        "prompt": "The movie",
        "weights": {"positive": 1.0},
        "method": "sum",
        "bands": (1, 0.5, 0),
        "parameters": {"strength": 1.5, "blend": 0.5, "scale": "unit", "contrast": 0.25},
        "sampling": {"max_new_tokens": 30, "temperature": 0, "top_p": 1, "top_k": 0, "seed": 3},
    }
    for name, value in changes.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    return make_request(**values, settings=SETTINGS)


def test_a_good_form_becomes_a_request():
    request = form()
    assert request.prompt == "The movie"
    assert request.composition == Composition(
        {"positive": 1.0}, "sum", 1.5, (1.0, 0.5, 0.0), blend=0.5, scale="unit", contrast=0.25
    )
    assert request.sampling == Sampling(30, 0.0, 1.0, 0, seed=3, time_limit=7)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": "  \n"}, "empty"),
        ({"prompt": None}, "empty"),
        ({"prompt": ["x"]}, "empty"),
        ({"prompt": "x" * 21}, "shorten it to 20"),
        ({"prompt": "half \ud83d"}, "broken characters"),
        ({"method": "merge"}, "no method called 'merge'"),
        ({"method": ["sum"]}, "no method"),
        ({"weights": {"positive": math.nan}}, "weight of positive"),
        ({"weights": {"positive": 9}}, "weight of positive"),
        ({"bands": (1, math.inf, 1)}, "middle band"),
        ({"bands": (1, 1)}, "three numbers"),
        ({"parameters": {"strength": None}}, "Strength"),
        ({"parameters": {"scale": "loud"}}, "Scale"),
        ({"sampling": {"temperature": math.nan}}, "temperature"),
        ({"sampling": {"seed": 1.5}}, "seed"),
        ({"sampling": {"max_new_tokens": 31}}, "at most 30"),
    ],
)
def test_a_bad_form_is_refused_with_one_sentence(changes, words):
    with pytest.raises(ComposerError, match=words):
        form(**changes)


def test_an_adapter_is_named_by_repo_or_where_allowed_by_folder(tmp_path):
    assert check_source(" owner/name ", folders=False) == ("owner/name", None)
    assert check_source("owner/name@v1.0", folders=False) == ("owner/name", "v1.0")
    assert check_source(str(tmp_path), folders=True) == (str(tmp_path), None)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("https://huggingface.co/owner/name", ("owner/name", None)),
        ("huggingface.co/owner/name/", ("owner/name", None)),
        ("https://hf.co/owner/name?library=peft#x", ("owner/name", None)),
        ("https://huggingface.co/owner/name/tree/main", ("owner/name", "main")),
        ("https://huggingface.co/owner/name/blob/abc/adapter_config.json", ("owner/name", "abc")),
        ("https://huggingface.co/models/owner/name", ("owner/name", None)),
    ],
)
def test_an_address_from_the_browser_is_read(address, found):
    assert check_source(address, folders=False) == found


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/owner/name",
        "https://huggingface.co.evil.org/owner/name",
        "https://huggingface.co/owner",
        "file:///etc/passwd",
        "https://huggingface.co/../../etc",
        "https://huggingface.co/owner/%2e%2e",
        "https://[huggingface.co/owner/name",
        "x" * 400,
        None,
        7,
    ],
)
def test_other_addresses_are_refused(address):
    with pytest.raises(ComposerError, match="Hub repo id"):
        check_source(address, folders=False)


@pytest.mark.parametrize(
    "source", ["", None, 7, "name", "a/b/c", "../etc", "/etc", "a/b\0", "<b>/x", "http://x/y"]
)
def test_anything_else_is_refused(source):
    with pytest.raises(ComposerError, match="owner/name"):
        check_source(source, folders=False)


def test_a_folder_that_looks_like_a_repo_is_still_a_folder(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ComposerError):
        check_source("owner/name", folders=False)
