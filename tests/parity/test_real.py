"""The real bases with the real adapters: the same identities at full size, and a few tokens of text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from composer import Composition, Sampling

PROMPT = "The movie was"
# A text in each adapter's style, and one of much the same content that is not.
STYLES = {
    "question": (
        "The lake is deep. How deep is it? Who owns the boat there? What is the name of the lake?",
        "The lake is deep. It is forty metres deep. My uncle owns the boat there. Its name is Blue Lake.",
    ),
    "archaic": (
        "The lake is deep, and he that goeth thither hath no boat. Thou shalt not cross it, said the king.",
        "The lake is deep, and whoever goes there has no boat. You will not cross it, said the king.",
    ),
    "polite": (
        "The note was kind, thanks. Could you please tell me how deep the lake is? I would like to know.",
        "The note on the lake was short. Tell me how deep it is. I want to know.",
    ),
    "formal": (
        "The lake is deep, and it is essential that visitors do not attempt to cross it without assistance.",
        "The lake's deep, so you shouldn't try and cross it if there's no one who'll help you out.",
    ),
    "poetic": (
        "The lake is deep, and dark its face,\nWhere once the moon would come to shine;\n"
        "O walk with me to that still place,\nAnd let your hand be laid in mine.",
        "The lake is deep and its surface is dark, and the moon used to shine on it. Come to that place with "
        "me and hold my hand.",
    ),
    "simple": (
        "Many people live in the city. Most of them do not have a car. They go to work by bus.",
        "The majority of the city's inhabitants, not possessing automobiles, commute by public transport.",
    ),
}
MOODS_AND_TOPICS = ("positive", "negative", "world", "sports", "business", "sci-tech")


@pytest.fixture(scope="module")
def composed(any_real_engine):
    """A real base with its adapters."""
    if not any_real_engine.names:
        pytest.skip(f"the adapters of {any_real_engine.base.spec.name} are not here")
    return any_real_engine


@pytest.fixture(scope="module")
def oracle(composed):
    plain = AutoModelForCausalLM.from_pretrained(composed.base.path, dtype=torch.float32)
    folders = {spec.name: spec.source for spec in composed.snapshot.adapters}
    model = PeftModel.from_pretrained(plain, folders["positive"], adapter_name="positive")
    model.load_adapter(folders["sports"], adapter_name="sports")
    return model.eval()


def test_all_bundled_adapters_load(real_engine):
    assert real_engine.names == (*MOODS_AND_TOPICS, *STYLES)


def test_every_base_has_the_moods_and_topics(composed):
    assert composed.names[: len(MOODS_AND_TOPICS)] == MOODS_AND_TOPICS
    assert all(report.ok for report in composed.reports)
    assert {attribute.poles for attribute in composed.attributes} == {("negative", "positive"), None}


@pytest.mark.parametrize("names", [["positive"], ["sports"], ["positive", "sports"]])
def test_logits_equal_peft(composed, oracle, names):
    oracle.base_model.set_adapter(names)
    ids = torch.tensor([composed.base.tokenizer(PROMPT)["input_ids"]])
    with torch.no_grad():
        expected = oracle(ids).logits[0, -1].numpy()
    got = composed.next_token_logits(PROMPT, Composition(weights=dict.fromkeys(names, 1)))
    assert np.abs(got - expected).max() < 1e-4


@pytest.mark.parametrize("method", ["sum", "contrast", "kl"])
def test_every_method_writes_text_and_says_who_did_what(composed, method):
    composition = Composition(weights={"negative": 1, "sports": 0.5}, method=method)
    steps = list(composed.generate(PROMPT, composition, Sampling(max_new_tokens=8, seed=1)))
    assert steps[-1].text.strip()
    shares = np.stack([step.contribution for step in steps])
    assert shares.shape == (len(steps), composed.model.layers, len(composed.names))
    assert shares[..., composed.names.index("negative")].mean() > 0.005
    assert not shares[..., composed.names.index("business")].any() or method == "contrast"


def test_fusion_reads_every_layer_of_the_prompt(composed):
    kl, alpha, *_ = composed.fusion("The quarterback threw a pass and")
    assert kl.shape == alpha.shape == (composed.model.layers, len(composed.names))
    np.testing.assert_allclose(alpha.sum(axis=1), 1, atol=1e-5)
    assert kl[-1].min() > 0


def test_an_adapter_makes_its_own_words_likelier(composed):
    happy, sad = (
        "The food was delicious and the staff wonderful.",
        "The food was terrible and the staff rude.",
    )

    def prefers_happy(**weights) -> float:
        composition = Composition(weights=weights)
        first, second = composed.log_probs([happy, sad], composition)
        return float(first.sum() - second.sum())

    assert prefers_happy(positive=1) > prefers_happy() > prefers_happy(negative=1)


@pytest.mark.parametrize("name", STYLES)
def test_a_style_makes_its_own_wording_likelier(name, real_engine):
    def prefers_its_own(**weights) -> float:
        first, second = real_engine.log_probs(list(STYLES[name]), Composition(weights=weights))
        return float(first.sum() - second.sum())

    assert prefers_its_own(**{name: 1}) > prefers_its_own() + 2
