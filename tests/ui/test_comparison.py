"""Columns, scores and files of a comparison, without a browser."""

from __future__ import annotations

import asyncio
import csv
import io
import json

import numpy as np
import pytest

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Step
from composer.ui.handlers.comparing import choose_texts, summary
from composer.ui.views import comparison_files
from composer.ui.views.comparison import MOST_COLUMNS, Comparison, make_columns

LEGEND = {
    name: {"name": name, "label": name.capitalize(), "color": "#112233"}
    for name in ("positive", "negative", "sports")
}
MIX = Composition({"positive": 1, "sports": 1.25}, "contrast", contrast=0.5, curves={"sports": [0, 1]})


class Judge:
    """Calls what has "good" in it positive."""

    attribute, labels, name, accuracy = "sentiment", ("negative", "positive"), "a judge", 0.8

    def shares(self, text):
        share = 0.9 if "good" in text else 0.2
        return {"negative": 1 - share, "positive": share}


def comparison(seeds=(3,), methods=("sum", "kl")):
    columns = make_columns(MIX, methods, LEGEND)
    return Comparison("The", columns, seeds, Sampling(5), (Judge(),), LEGEND)


def step(index, text, seconds=0.0):
    return Step(0, index, 7, text, text, np.zeros((1, 1), np.float32), seconds)


def test_columns_are_the_base_each_adapter_alone_and_the_mix_by_each_method():
    columns = make_columns(MIX, ("sum", "kl"), LEGEND)
    assert [each.title for each in columns] == [
        "Base",
        "Positive alone",
        "Sports alone",
        "Sum of outputs",
        "KL fusion (qa-FLoRA)",
    ]
    assert columns[0].composition == Composition()
    assert dict(columns[2].composition.weights) == {"sports": 1.25}
    assert columns[2].composition.curves["sports"] == (0, 1)
    assert columns[4].composition.method == "kl" and columns[4].composition.weights == MIX.weights
    assert len(columns[4].colors) == 2


def test_one_adapter_has_no_column_of_its_own_beside_the_methods():
    columns = make_columns(Composition({"sports": 1}), ("sum",), LEGEND)
    assert [each.title for each in columns] == ["Base", "Sum of outputs"]


def test_nothing_to_compare_and_too_much_are_sentences():
    with pytest.raises(ComposerError, match="at 0"):
        make_columns(Composition({"sports": 0}), ("sum",), LEGEND)
    many = ("sum", "contrast", "kl", "arrow", "ties", "logits")
    with pytest.raises(ComposerError, match=f"9 columns, and {MOST_COLUMNS} fit"):
        make_columns(MIX, many, LEGEND)


def test_requests_are_every_column_at_every_seed():
    made = comparison(seeds=(3, 4))
    assert len(made.requests) == 10
    assert [each.sampling.seed for each in made.requests[:2]] == [3, 4]
    assert made.requests[0].composition == made.requests[1].composition == Composition()


def filled(seeds=(3,)):
    made = comparison(seeds)
    for index in range(len(made.requests)):
        text = " is good, so good" if index // len(seeds) in (1, 3) else " is bad, is bad"
        made.add(index, step(0, text[:3], 0.1))
        made.add(index, step(1, text, 0.1 + 0.05 * (index + 1)))
    made.score([5.0 + index for index in range(len(made.requests))])
    return made


def test_scores_and_the_best_cells():
    rows = {row.label: row for row in filled().rows()}
    assert rows["Sentiment"].shown[0] == "Negative 80%" and rows["Sentiment"].shown[3] == "Positive 90%"
    assert rows["Sentiment"].best == (1, 3)
    assert rows["Perplexity"].shown == ("5.0", "6.0", "7.0", "8.0", "9.0") and rows["Perplexity"].best == (0,)
    assert rows["Distinct-2"].shown[0] == "0.67" and rows["Distinct-2"].best == (1, 3)
    assert rows["Tokens/s"].shown[0] == "20" and rows["Tokens/s"].best == ()


def test_the_best_mix_is_framed():
    shown = filled().message()["columns"]
    assert [column["best"] for column in shown] == [False, False, False, True, False]


def test_several_seeds_give_means_with_intervals():
    made = filled(seeds=(1, 2, 3, 4))
    rows = {row.label: row for row in made.rows()}
    assert rows["Sentiment right"].shown[3] == "100% [100%, 100%]"
    assert rows["Perplexity"].shown[0].startswith("6.5 [")
    low, high = rows["Perplexity"].shown[0][5:-1].split(", ")
    assert float(low) < 6.5 < float(high)
    assert len(made.message()["columns"][0]["texts"]) == 4


def test_a_mix_is_led_by_the_text_that_its_adapters_find_likeliest():
    made = filled(seeds=(11, 12, 13))
    assert made.mixes == [3, 4]  # not the base, nor an adapter alone
    assert (made.seed_of(3), made.message()["columns"][3]["likeliest"]) == (11, None)
    made.choose(3, [-4.0, -0.5, -2.0])
    shown = made.message()["columns"][3]
    assert shown["likeliest"] == 1 and shown["text"] == made.own[3].texts[1] and made.seed_of(3) == 12
    assert made.column_request(3).composition.method == made.columns[3].composition.method
    assert json.loads(made.message()["files"]["json"])["columns"][3]["likeliest"] == 1


class OneFails:
    """A runner whose adapters of the method kl are gone."""

    def choice_scores(self, request, continuations):
        if request.composition.method == "kl":
            raise ComposerError("The adapter is gone.")
        return [-float(len(text)) for text in continuations]


@pytest.mark.parametrize(("seeds", "asked"), [((1,), 0), ((1, 2), 2)])
def test_of_one_text_none_is_chosen_and_a_mix_that_cannot_choose_keeps_its_first(seeds, asked):
    made = filled(seeds=seeds)
    made.own[3].texts[-1] = ""

    async def choose():
        return [None async for _ in choose_texts(OneFails(), made)]

    assert len(asyncio.run(choose())) == asked
    assert [own.likeliest for own in made.own] == [None, None, None, 1 if asked else None, None]
    assert ("Likeliest:" in summary(made, 1.0)) == bool(asked)


def test_a_column_that_failed_says_why_and_the_others_are_scored():
    made = comparison()
    made.add(0, step(0, " is good"))
    made.add(1, "The merge does not fit.")
    made.score([5.0, None, None, None, None])
    shown = made.message()["columns"]
    assert shown[1]["fault"] == "The merge does not fit." and shown[1]["cells"][0]["value"] == ""
    assert shown[0]["cells"][0]["value"]


def test_files_hold_every_text_and_no_formula():
    made = filled()
    made.add(0, step(1, '=HYPERLINK("x")|<b>\nnext', 1.0))
    files = comparison_files.files(made, made.rows())
    rows = list(csv.reader(io.StringIO(files["csv"])))
    assert rows[0][:3] == ["column", "method", "weights"] and len(rows) == 6
    assert rows[1][-1] == '\'=HYPERLINK("x")|<b>\nnext'
    document = json.loads(files["json"])
    assert document["seeds"] == [3] and document["columns"][0]["texts"] == ['=HYPERLINK("x")|<b>\nnext']
    assert Composition(**document["columns"][4]["composition"]).method == "kl"
    (line,) = [line for line in files["md"].split("\n") if line.startswith("| Base")]
    assert "\\|&lt;b>" in line


def test_while_it_runs_there_are_texts_and_no_scores():
    made = comparison()
    made.add(0, step(0, " is"))
    shown = made.message("Writing…")
    assert shown["message"] == "Writing…" and shown["columns"][0]["text"] == " is"
    assert not shown["columns"][0]["cells"] and shown["files"] == {}
