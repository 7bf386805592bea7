"""Texts that a base wrote: their name tells what they depend on, and kept ones are used as they are."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from random import Random

import pytest

from composer.adapters.catalog import load_catalog
from composer.training.pipeline import first_round, written_files
from composer.training.recipes import load_recipes
from composer.training.self_generation import generate_own
from composer.training.written_texts import KEPT, file_name, fill_from_kept, keep

RECIPE = load_recipes()["positive"]
OTHER_TEXTS = {
    "another confidence": {"confidence": 0.5},
    "other openings": {"opening_words": (1, 2)},
    "another shape": {"shape": ".*"},
    "another seed": {"seed": 8},
    "another filter": {"filter": "language_model"},
}
SAME_TEXTS = {"save_every": 5, "second_round": 321, "alpha_gain": 2.0}
# A first round is trained for its texts, so what they are depends on all of the training.
OTHER_SECOND = {"learning_rate": 1e-4, "rank": 4, "self_generated": 481}


def names(recipe, base="me/base"):
    return file_name(recipe, base), file_name(recipe, base, first_round(recipe))


@pytest.mark.parametrize("change", OTHER_TEXTS.values(), ids=OTHER_TEXTS)
def test_whatever_changes_the_texts_changes_their_name(change):
    assert not set(names(replace(RECIPE, **change))) & set(names(RECIPE))


def test_what_does_not_change_them_does_not():
    assert names(replace(RECIPE, **SAME_TEXTS)) == names(RECIPE)
    for field, value in OTHER_SECOND.items():
        own, second = names(replace(RECIPE, **{field: value}))
        assert own == names(RECIPE)[0] and second != names(RECIPE)[1]
    longer = replace(RECIPE, steps=500)
    assert names(longer) == names(replace(RECIPE, steps=300)), "the first round is as long"
    assert set(names(RECIPE, "you/base")).isdisjoint(names(RECIPE))


def test_kept_texts_are_used_and_nothing_is_written(tmp_path, monkeypatch):
    file = tmp_path / "work" / file_name(RECIPE, "me/base")
    file.parent.mkdir()
    file.write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(5)))
    assert written_files(RECIPE, "me/base", file.parent) == [file]
    stored = keep(file, tmp_path / "kept")
    assert stored.read_bytes() == keep(file, tmp_path / "again").read_bytes()
    elsewhere = tmp_path / "other" / file.name
    monkeypatch.setattr(
        "composer.training.self_generation.fill_from_kept",
        lambda path: fill_from_kept(path, tmp_path / "kept"),
    )
    texts = generate_own(RECIPE, pytest.fail, [], pytest.fail, 4, elsewhere)
    assert texts == [f"text {i}" for i in range(4)]
    elsewhere.write_text(json.dumps({"text": "my own"}) + "\n")
    assert not fill_from_kept(elsewhere, tmp_path / "kept"), "what a run wrote itself stays"
    assert generate_own(RECIPE, pytest.fail, [], pytest.fail, 1, elsewhere) == ["my own"]


@pytest.mark.parametrize("file", sorted(KEPT.glob("*.gz")), ids=lambda file: file.name)
def test_what_is_kept_is_of_a_bundled_recipe(file):
    """A recipe that changes needs its texts written anew, or the bundled adapter is not what it makes."""
    known = {
        name: count
        for base, spec in load_catalog("adapters.yaml").bases.items()
        for recipe in load_recipes(base=base).values()
        for name, count in zip(
            names(recipe, spec.id), (recipe.self_generated, recipe.second_round), strict=True
        )
    }
    assert file.name.removesuffix(".gz") in known
    texts = [json.loads(line)["text"] for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert len(texts) >= known[file.name.removesuffix(".gz")] > 0
    assert all(text.strip() for text in Random(0).sample(texts, 20))
