"""A base's config from the Hub: a few kilobytes, and no weights."""

from __future__ import annotations

import json

import pytest

from composer.adapters.hub import HubError
from composer.adapters.hub.base_config import LARGEST, base_config
from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError
from composer.model.checkpoints.config import find_config
from tests.tools.fake_hub import Fault
from tests.tools.real_shapes import SHAPES

REPO = "mistralai/Mistral-7B-v0.1"
FILES = {"config.json": json.dumps(SHAPES["mistral-7b"].config).encode(), "model.safetensors": b"x" * 100_000}


def test_only_the_config_is_downloaded(hub):
    commit = hub.add(REPO, FILES)
    config, place = find_config(BaseSpec("mine", REPO))
    assert config.num_hidden_layers == 32 and place == "hub"
    assert not [line for line in hub.requests if "safetensors" in line] and hub.sent < 5000
    before = len(hub.requests)
    config, place = find_config(BaseSpec("mine", REPO, commit))
    assert config.vocab_size == 32000 and place == "hub" and len(hub.requests) == before


def test_a_config_that_was_downloaded_is_there_without_the_hub(hub):
    hub.add(REPO, FILES)
    assert base_config(REPO, None, cached_only=True) is None
    with pytest.raises(ComposerError, match="leave out --offline"):
        find_config(BaseSpec("mine", REPO), offline=True)
    base_config(REPO, None)
    hub.faults.append(Fault("", 0))
    assert find_config(BaseSpec("mine", REPO), offline=True)[1] == "hub"
    assert find_config(BaseSpec("mine", REPO))[1] == "hub"


def test_a_gated_base_says_what_to_do(hub):
    hub.add(REPO, FILES)
    hub.gated.add(REPO)
    with pytest.raises(HubError, match=r"gated: accept its terms on its Hub page, then set HF_TOKEN"):
        find_config(BaseSpec("mine", REPO))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.safetensors": b""}, "lacks a file"),
        ({"config.json": b" " * (LARGEST + 1)}, "too large"),
        ({"config.json": b"{"}, "cannot be read"),
        ({"config.json": b'{"model_type": "unheard-of"}'}, "cannot be read"),
    ],
)
def test_a_repository_without_a_config_is_one_sentence(files, said, hub):
    hub.add(REPO, files)
    with pytest.raises(ComposerError, match=said):
        find_config(BaseSpec("mine", REPO))


def test_what_is_no_repository_is_not_asked_for(hub):
    with pytest.raises(HubError, match="not a repository id"):
        base_config("../etc", None)
    assert not hub.requests
