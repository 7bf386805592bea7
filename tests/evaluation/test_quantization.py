"""What quantising a base costs, on a toy base in float32 and in nf4."""

from dataclasses import replace

import pytest
import torch

from composer.core.catalog_types import BaseSpec, Catalog
from composer.core.composition import Composition
from composer.core.document import markdown
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.evaluation.quantization import blocks, quantization_cost
from composer.model.loading import load_base
from tests.tools import tiny

PROMPTS = ("goal", "a match", "the end")
COMPOSITIONS = {"base": Composition(), "loud": Composition({"loud": 1})}


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    stored = tmp_path_factory.mktemp("base")
    tiny.model("llama").save_pretrained(stored)
    tiny.tokenizer().save_pretrained(stored)
    adapter = tiny.adapter(stored / "loud", "llama", 5, r=8, lora_alpha=64)
    full = BaseSpec("full", "tiny/llama", folder=str(stored))
    made = []
    for spec in (full, replace(full, name="four-bit", quantization="nf4")):
        engine = Engine(Catalog(".", spec.name, {spec.name: spec}), load_base(spec, "cpu"))
        engine.add_adapter(str(adapter), name="loud")
        made.append(engine)
    return made


def test_a_base_against_itself_costs_nothing(engines):
    full, _ = engines
    bare, loud = quantization_cost(full, full, COMPOSITIONS, PROMPTS, 6)
    assert bare.kl.value == pytest.approx(0, abs=1e-6) and bare.same.value == 1
    assert bare.loss.value == 0 and bare.moved.value == pytest.approx(0, abs=1e-6)
    assert loud.moved.value > 0.01 and loud.kl.value == pytest.approx(0, abs=1e-6)


def test_the_cost_is_that_of_the_models_themselves(engines):
    full, four = engines
    seen = []
    [bare] = quantization_cost(full, four, {"base": Composition()}, PROMPTS[:1], 1, seen.append)
    one, two = (
        torch.from_numpy(each.next_token_logits(PROMPTS[0])).log_softmax(0) for each in (full, four)
    )  # [V] each
    assert bare.kl.value == pytest.approx(float((one.exp() * (one - two)).sum()), rel=1e-3)
    assert bare.kl.value > 1e-5 and bare.tokens == 1 and seen == [1]
    token = int(one.argmax())
    assert bare.loss.value == pytest.approx(float(one[token] - two[token]), abs=1e-4)


def test_the_table_names_both_bases(engines):
    full, four = engines
    text = markdown(blocks(quantization_cost(full, four, COMPOSITIONS, PROMPTS[:2], 3), full, four))
    assert "| loud |" in text and "full against four-bit" in text


def test_other_tokens_are_refused(engines):
    full, _ = engines
    other = Engine(full.catalog, replace(full.base, tokenizer=_Shifted(full.base.tokenizer)))
    with pytest.raises(ComposerError, match="same tokens"):
        quantization_cost(full, other, COMPOSITIONS, PROMPTS, 2)


class _Shifted:
    """A tokenizer whose every token is the next one's."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def __call__(self, text, **options):
        return {"input_ids": [token + 1 for token in self._inner(text, **options)["input_ids"]]}
