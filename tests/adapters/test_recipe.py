"""Recipes: there and back, and what strangers send in their place."""

from __future__ import annotations

import json

import pytest

from composer import Composition, Sampling
from composer.adapters.recipe import Recipe, Source, load_recipe, parse_recipe, read_recipe, recipe_yaml
from composer.core.errors import ComposerError
from composer.engine.recipes import check_recipe, recipe_of
from composer.ui.sharing import LONGEST, decode, encode
from tests.tools import tiny

FULL = Recipe(
    Source("owner/base", "c" * 40),
    'The match: "last" night\n- 試合 #1',
    Composition(
        {"positive": 1, "sports": 1.25},
        "contrast",
        strength=0.5,
        bands=(1, 0.5, 2),
        contrast=0.25,
        norm=False,
        live=4,
        rank=8,
        curves={"sports": [0, 0.5, 1]},
        schedule={"sports": [2, None], "positive": [1, 30]},
    ),
    Sampling(40, 0.7, 0.9, 20, 1.1, 12345),
    {"positive": Source("owner/positive", "a" * 40), "sports": Source(sha256="0123456789abcdef")},
    "compare",
)


def test_yaml_and_link_bring_back_the_same_recipe(tmp_path):
    assert parse_recipe(recipe_yaml(FULL)) == FULL
    assert decode(encode(FULL)) == FULL
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe_yaml(FULL), "utf-8")
    assert load_recipe(file) == FULL


def test_what_is_at_its_default_is_left_out():
    small = Recipe(Source("a/b"), "Hi", Composition({"x": 1}))
    assert small.as_dict() == {
        "version": 1,
        "base": {"id": "a/b"},
        "adapters": {},
        "prompt": "Hi",
        "composition": {"weights": {"x": 1.0}},
        "sampling": {"seed": 0},
    }
    assert read_recipe(small.as_dict()) == small


def changed(**changes):
    return json.loads(json.dumps(FULL.as_dict())) | changes


NESTED = json.loads("[" * 90 + "]" * 90)
HOSTILE = [
    None,
    [],
    "text",
    5,
    NESTED,
    {},
    changed(version=2),
    changed(version=True),
    changed(version=None),
    changed(extra=1),
    changed(prompt=["The"]),
    changed(prompt="x" * 20_001),
    changed(base="owner/base"),
    changed(base={"id": "../../etc/passwd"}),
    changed(base={"id": "/etc/passwd"}),
    changed(base={"id": 5}),
    changed(base={"url": "x"}),
    changed(adapters=[1]),
    changed(adapters={"": {}}),
    changed(adapters={"a": NESTED}),
    changed(adapters={str(i): {} for i in range(300)}),
    changed(composition=NESTED),
    changed(composition={"weights": [1]}),
    changed(composition={"weights": {"a": "1e999"}}),
    changed(composition={"weights": {"a": None}}),
    changed(composition={"weights": {"a": 1e9}}),
    changed(composition={"weights": {"a": [1]}}),
    changed(composition={"method": ["sum"]}),
    changed(composition={"bands": "abc"}),
    changed(composition={"bands": [1, 2]}),
    changed(composition={"norm": "yes"}),
    changed(composition={"scale": NESTED}),
    changed(composition={"curves": {"a": NESTED}}),
    changed(composition={"schedule": {"a": ["x", 1]}}),
    changed(composition={"__class__": 1}),
    changed(sampling={"seed": -1}),
    changed(sampling={"seed": 1.5}),
    changed(sampling={"temperature": float("nan")}),
    changed(sampling={"time_limit": 9999}),
    changed(sampling={"max_new_tokens": 10**9}),
]


@pytest.mark.parametrize("document", HOSTILE, ids=range(len(HOSTILE)))
def test_anything_else_is_one_sentence(document):
    with pytest.raises(ComposerError) as fault:
        read_recipe(document)
    assert str(fault.value).endswith(".") and "\n" not in str(fault.value) and len(str(fault.value)) < 250


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "- 1",
        "a: &x [1]\nb: *x",
        "version: 1\nversion: 1",
        "!!python/object:os.system {}",
        "\x00",
        "x" * 100_001,
    ],
)
def test_yaml_that_is_no_recipe_is_one_sentence(text):
    with pytest.raises(ComposerError) as fault:
        parse_recipe(text)
    assert str(fault.value).endswith(".")


def test_a_bomb_of_aliases_is_refused_before_it_is_read():
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
    with pytest.raises(ComposerError, match="alias"):
        parse_recipe("\n".join(lines))


@pytest.mark.parametrize(
    "encoded",
    [None, 5, "", "%", "e30", "W10", "bnVsbA", "AAAA", "x" * (LONGEST + 1), "WyJhIg", encode(FULL)[:-9], "é"],
)
def test_a_broken_link_is_one_sentence(encoded):
    with pytest.raises(ComposerError) as fault:
        decode(encoded)
    assert str(fault.value).endswith(".")


def test_what_is_too_long_for_a_link_says_so():
    with pytest.raises(ComposerError, match="as a file"):
        encode(Recipe(Source("a/b"), "x" * 9000))


def test_an_unknown_tab_is_none():
    assert read_recipe(changed(tab="../x")).tab == read_recipe(changed(tab=5)).tab == ""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return tiny.engine("llama", tiny.three_unlike(tmp_path_factory.mktemp("llama"), "llama"))


def test_an_engines_recipe_names_weights_by_hash_and_no_path(engine):
    made = recipe_of(engine, "Hi", Composition({"plain": 1, "rslora": 0}), Sampling(seed=2))
    assert made.base.id == "tiny/llama" and set(made.adapters) == {"plain"}
    assert len(made.adapters["plain"].sha256) == 16 and made.adapters["plain"].id is None
    assert "/" not in recipe_yaml(made).replace("tiny/llama", "")
    assert check_recipe(engine, made) == []


def test_a_recipe_that_does_not_belong_here_is_refused_or_noted(engine):
    made = recipe_of(engine, "Hi", Composition({"plain": 1}), Sampling())
    other = Recipe(made.base, "Hi", made.composition, adapters={"plain": Source(sha256="f" * 16)})
    assert check_recipe(engine, other) == ["The adapter plain has other weights here."]
    with pytest.raises(ComposerError, match="other/base"):
        check_recipe(engine, Recipe(Source("other/base"), "Hi"))
    foreign = Recipe(made.base, "Hi", Composition({"mine": 1}), adapters={"mine": Source("me/mine")})
    with pytest.raises(ComposerError, match="add me/mine under Adapters"):
        check_recipe(engine, foreign)
    with pytest.raises(ComposerError, match="nobody"):
        check_recipe(engine, Recipe(made.base, "Hi", Composition(curves={"nobody": [1]})))
