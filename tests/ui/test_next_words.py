"""The panel of next words, without a browser."""

import numpy as np
import pytest

from composer.analysis.next_token import NextTokens
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.ui.components.next_words import BASE_COLOR, view
from composer.ui.runners.batched import BatchedRunner
from composer.ui.runners.zero_gpu import ZeroGpuRunner
from composer.ui.settings import Settings
from composer.ui.validation import Request
from tests.tools import tiny

LEGEND = {"sports": {"name": "sports", "label": "Sports", "color": "#123456"}}


def ask(composition):
    return Request("The movie", composition, Sampling())


def found(**changes):
    plain = dict(
        tokens=(1, 2),
        pieces=(" match", "\n"),
        adapters=("sports",),
        base=np.array([0.1, 0.2]),
        composed=np.array([0.6, 0.1]),
        push=np.array([[1.5, 0.001]]),
        kl=0.714,
    )
    return NextTokens(**{**plain, **changes})


def test_words_have_their_shares_and_the_color_of_the_strongest_push():
    shown = view(found(), LEGEND, {"sports": 1.0})
    match, line = shown["words"]
    assert (match["text"], match["base"], match["composed"], match["color"]) == ("match", 0.1, 0.6, "#123456")
    assert match["pushes"] == [{"label": "Sports", "color": "#123456", "nats": 1.5}]
    assert (line["text"], line["color"]) == ("line break", BASE_COLOR)
    assert "0.71 nats" in shown["message"]


def test_a_subtracted_opposite_is_named_and_gives_no_color():
    both = found(adapters=("negative", "sports"), push=np.array([[9.0, 9.0], [0.5, 0.5]]))
    word = view(both, LEGEND, {"sports": 1.0})["words"][0]
    assert word["color"] == "#123456" and [push["label"] for push in word["pushes"]] == ["negative", "Sports"]


def test_the_base_alone_says_so():
    shown = view(found(adapters=(), push=np.zeros((0, 2))), LEGEND, {})
    assert "the base" in shown["message"] and shown["words"][0]["pushes"] == []


def test_an_adapter_that_was_just_added_is_named():
    assert view(found(adapters=("mine",)), LEGEND, {})["words"][0]["pushes"][0]["label"] == "mine"


@pytest.mark.parametrize("kind", ["batched", "zero_gpu"])
def test_every_runner_gives_the_same_words_and_refuses_merges(kind, tmp_path):
    engine = tiny.engine("llama", tiny.three_unlike(tmp_path, "llama"))
    runner = (
        BatchedRunner(engine, Settings()) if kind == "batched" else ZeroGpuRunner(engine, lambda work: work)
    )
    try:
        words = runner.next_tokens(ask(Composition({"plain": 1.0})), engine.names)
        assert words.adapters == ("plain",) and len(words.tokens) == 10
        with pytest.raises(ComposerError, match="press Generate"):
            runner.next_tokens(ask(Composition({"plain": 1.0, "rslora": 1.0}, "ties")), engine.names)
    finally:
        runner.close()
