"""Searching the Hub for adapters of a base, their cards, and the cache of those that visitors bring."""

from __future__ import annotations

import pytest

from composer.adapters.hub import Fetch, HubError, download, inspect, prune, read_card, search
from composer.adapters.model_card import LONGEST, ModelCard, parse_card
from tests.tools.adapters import adapter_files, lora_tensors
from tests.tools.fake_hub import FakeHub, Fault
from tests.tools.hub_checks import JOY, WEIGHTS_FILE

BASE = "tiny/base"
TAGS = [f"base_model:adapter:{BASE}", "peft", "safetensors", "license:mit", "dataset:a/b", "dataset:c/d"]


@pytest.fixture
def filled(hub: FakeHub) -> FakeHub:
    hub.add(BASE, {"config.json": b"{}"})
    hub.about = {
        "me/pirate": {"tags": TAGS, "downloads": 5, "likes": 2, "gated": False},
        "me/poet": {"tags": TAGS, "downloads": 50, "gated": "manual"},
        "me/other-base": {"tags": ["base_model:adapter:x/y", "peft", "safetensors"]},
    }
    return hub


def test_adapters_of_the_base_are_found_most_downloaded_first(filled):
    poet, pirate = search(BASE)
    assert (pirate.id, pirate.downloads, pirate.likes, pirate.license) == ("me/pirate", 5, 2, "mit")
    assert pirate.datasets == ("a/b", "c/d") and not pirate.gated
    assert poet.id == "me/poet" and poet.gated and poet.likes == 0


def test_words_narrow_it_down(filled):
    assert [each.id for each in search(BASE, " pirate ")] == ["me/pirate"]
    assert search(BASE, "nobody") == []


def test_what_a_stranger_answers_is_only_text(filled):
    filled.about = {
        "../../etc": {"tags": TAGS},
        "me/odd": {"tags": [*TAGS[:3], 7, None, "license:" + "x" * 900], "downloads": "many", "likes": True},
    }
    (odd,) = search(BASE)
    assert odd.id == "me/odd" and len(odd.license) == 100 and odd.downloads == odd.likes == 0


@pytest.mark.parametrize("status", [500, 429, 401, 0])
def test_a_hub_that_fails_is_a_sentence(filled, status):
    filled.faults.append(Fault("GET /api/models/tiny", status))
    with pytest.raises(HubError) as told:
        search(BASE)
    assert str(told.value).endswith(".") and "127.0.0.1" not in str(told.value)


CARD = """---
license: apache-2.0
datasets: [x/poems, x/songs]
---
# Rhyme
| adapter | control [95%] | base alone |
|---|---|---|
| rhyme | 91.0% [85.5%, 95.0%] | 12.0% |
"""


def test_a_card_from_the_hub(hub):
    commit = hub.add(JOY, {**adapter_files(), "README.md": CARD.encode()})
    found = ModelCard("apache-2.0", ("x/poems", "x/songs"), "91.0% [85.5%, 95.0%]", "12.0%")
    assert read_card(JOY, commit) == found == parse_card(CARD)


@pytest.mark.parametrize(
    "card",
    [
        b"",
        b"---\n: [\n---\n",
        b"---\n- 1\n---\n",
        b"\xff\xfe\x00",
        b"x" * (LONGEST + 1),
        b"---\nlicense: {a: 1}\ndatasets: 7\n---\n",
        b"---\na: &a [x]\nb: *a\n---\n",
    ],
)
def test_a_card_that_says_nothing_is_empty(hub, card):
    commit = hub.add(JOY, {**adapter_files(), "README.md": card})
    assert read_card(JOY, commit) == ModelCard()


def test_a_repo_without_a_card_or_a_hub(hub):
    assert read_card(JOY, hub.add(JOY, adapter_files())) == ModelCard()
    assert read_card("no/where", "0" * 40) == ModelCard()


def test_markup_in_a_card_is_harmless():
    found = parse_card("---\nlicense: '<img src=x onerror=1>'\n---\n")
    assert "<" not in found.license


def test_what_visitors_bring_lies_apart_and_is_told_of(hub, tmp_path):
    files, told = adapter_files(), []
    hub.add(JOY, files)
    fetch = Fetch(tmp_path / "added", lambda done, total: told.append((done, total)))
    folder = download(inspect(JOY, fetch=fetch), fetch=fetch)
    assert folder.is_relative_to(tmp_path / "added") and not list((tmp_path / "cache").rglob(WEIGHTS_FILE))
    size = len(files[WEIGHTS_FILE])
    assert told[-1] == (size, size)
    sent = len(hub.requests)
    assert inspect(JOY, folder.name, fetch=fetch).folder == folder and len(hub.requests) == sent


def test_the_owners_cache_comes_first(hub, tmp_path):
    commit = hub.add(JOY, adapter_files())
    owners = download(inspect(JOY))
    assert inspect(JOY, commit, fetch=Fetch(tmp_path / "added")).folder == owners


def test_the_cache_is_kept_within_its_bytes(hub, tmp_path):
    cache = tmp_path / "added"
    for rank, name in enumerate(("me/a", "me/b", "me/c"), start=5):
        hub.add(name, adapter_files(tensors=lora_tensors(rank=rank)))
        download(inspect(name, fetch=Fetch(cache)), fetch=Fetch(cache))
    weights = [path for path in cache.rglob(WEIGHTS_FILE)]
    assert len(weights) == 3
    one = (
        sum(path.stat().st_size for path in cache.rglob("*") if path.is_file() and not path.is_symlink()) / 3
    )
    prune(cache, 2.5 * one, keep={"me/a"})
    left = {path.relative_to(cache).parts[0] for path in cache.rglob(WEIGHTS_FILE)}
    assert len(left) == 2 and "models--me--a" in left
    prune(cache, 0)
    assert not list(cache.rglob(WEIGHTS_FILE))
    prune(tmp_path / "nowhere", 0)
