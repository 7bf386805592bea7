"""SLOR, repetition and distinct-n worked out by hand; then the table over a tiny base."""

import math

import numpy as np
import pytest

from composer.core.document import markdown
from composer.core.errors import ComposerError
from composer.evaluation.fluency import blocks, measure_fluency, second_model
from composer.evaluation.metrics import distinct, perplexity, repetition, slor, unigrams
from composer.evaluation.scoring import perplexities
from composer.evaluation.texts import BASE, Text
from tests.tools import tiny


def test_repeated_n_grams():
    # a b a b a -> pairs ab ba ab ba: 4, 2 different
    assert repetition("A b a b a", 2) == pytest.approx(1 / 2)
    assert repetition("one two three four five") == 0
    assert repetition("go go go go go go") == pytest.approx(2 / 3)  # 3 four-grams, all the same
    assert repetition("one two three") is None


def test_distinct_one_and_three():
    assert distinct(["a b a", "b"], 1) == pytest.approx(2 / 4)
    assert distinct(["a b a b a"], 3) == pytest.approx(2 / 3)  # aba bab aba


def test_unigrams_are_counts_one_higher():
    # Tokens 0 0 2 over a vocabulary of 3: counts 3, 1, 2 of 6.
    found = unigrams([[0], [0, 2], []], 3)
    assert np.exp(found) == pytest.approx([3 / 6, 1 / 6, 2 / 6])


def test_slor_by_hand():
    # p = 1/2 and 1/8 in context, 1/4 and 1/8 alone: (ln 1/16 - ln 1/32) / 2 = ln(2) / 2
    alone = np.log([1 / 4, 1 / 8])
    assert slor(np.log([1 / 2, 1 / 8]).mean(), [0, 1], alone) == pytest.approx(math.log(2) / 2)


def test_slor_forgives_a_rare_word():
    # Both texts are twice as likely in context as word by word; the second has a hundred times rarer words.
    alone = np.log([0.1, 0.001])
    common, rare = (slor(math.log(2 * math.exp(alone[token])), [token], alone) for token in (0, 1))
    assert common == pytest.approx(rare) == pytest.approx(math.log(2))
    assert slor(-1.0, [], alone) is None


@pytest.fixture(scope="module")
def engine():
    return tiny.engine("llama", {})


@pytest.fixture(scope="module")
def texts(engine):
    made = [
        (BASE, "The film", " is good"),
        (BASE, "A goal", " was it"),
        ("mine", "The film", " is is is is is is"),
    ]
    scores = perplexities(engine, [(prompt, continuation) for _, prompt, continuation in made])
    return [
        Text(str(seed), subject, prompt, seed, continuation, score)
        for seed, ((subject, prompt, continuation), score) in enumerate(zip(made, scores, strict=True))
    ]


def test_fluency_of_each_subject(engine, texts):
    base, mine = measure_fluency(texts, engine)
    assert (base.subject, mine.subject) == (BASE, "mine")
    assert mine.perplexity == texts[2].perplexity and mine.second is None
    assert mine.distinct == (pytest.approx(1 / 6), pytest.approx(1 / 5), pytest.approx(1 / 4))
    assert mine.repeated == pytest.approx(2 / 3) and base.repeated is None

    # One token a byte: the base's own continuations are counted, and of the text only its continuation.
    own = np.ones(len(engine.base.tokenizer))
    for text in texts[:2]:
        np.add.at(own, engine.base.tokenizer(text.continuation)["input_ids"], 1)
    alone = np.log(own / own.sum())[engine.base.tokenizer(texts[2].continuation)["input_ids"]]
    logs = engine.log_probs([texts[2].prompt + texts[2].continuation])[0][len("The film") - 1 :]
    assert mine.slor == pytest.approx((logs.sum() - alone.sum()) / len(alone), rel=1e-5)
    assert mine.perplexity == pytest.approx(perplexity(logs))


def test_without_the_bases_own_texts_there_is_no_slor(engine, texts):
    [mine] = measure_fluency(texts[2:], engine)
    assert mine.slor is None and "| - |" in markdown(blocks([mine]))


def test_an_empty_continuation_has_nothing_to_measure(engine):
    [row] = measure_fluency([Text("k", BASE, "The film", 0, "", None)], engine)
    assert (row.perplexity, row.slor, row.repeated) == (None, None, None)


def test_a_second_model_reads_the_same_texts(engine, texts, tmp_path):
    tiny.model("gpt_neox", seed=3).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    second = second_model(str(tmp_path), "cpu")
    counts = []
    _, mine = measure_fluency(texts, engine, second, counts.append)
    expected = second.log_probs([texts[2].prompt + texts[2].continuation])[0][len("The film") - 1 :]
    assert mine.second == pytest.approx(perplexity(expected)) and mine.second != mine.perplexity
    assert sum(counts) == 3
    table = markdown(blocks([mine], "another model"))
    assert f"| mine | {mine.perplexity:.2f} | {mine.second:.2f} | " in table and "66.7%" in table
    assert str(tmp_path) not in table


def test_a_second_model_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(ComposerError, match="config"):
        second_model(str(tmp_path))
    with pytest.raises(ComposerError, match="owner/name"):
        second_model("no such model")
