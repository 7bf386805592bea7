"""Judges learn from what no adapter saw, and are tested on what they did not learn from."""

from dataclasses import replace

import pytest

from composer.core.errors import ComposerError
from composer.evaluation.judges.training import (
    PLANS,
    Plan,
    Source,
    adapters_texts,
    fold,
    measure,
    split,
    train_judges,
)
from composer.training.data import Row, read_file, side
from tests.evaluation import toys

SENTIMENT, TOPIC = PLANS["sentiment"], PLANS["topic"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toys.write(tmp_path_factory.mktemp("data"))


def files(plan, data):
    return {source.file: read_file(data, source.file) for source in plan.sources}


def test_judges_tell_plain_cases_apart(data):
    sentiment, topic = train_judges(data)
    assert sentiment(["A wonderful evening", "What an awful evening"]) == ["positive", "negative"]
    assert topic(["The coach and the goal", "A chip in the software"]) == ["sports", "sci-tech"]


def test_a_judge_reports_each_source_it_was_tested_on(data):
    sentiment, topic = train_judges(data)
    rows = {score.file: score.rows for score in sentiment.scores}
    assert rows["sst_cased/test.jsonl.gz"] == 48  # the neutral row is nobody's
    assert set(rows) == {"imdb_short/test.jsonl.gz", "sst_cased/test.jsonl.gz", "yelp_short/test.jsonl.gz"}
    assert "100.0% of 48" in str(sentiment)
    assert topic.labels == ("business", "sci-tech", "sports", "world")


def test_accuracy_is_that_of_all_held_out_rows(data):
    right = [Row(text, label) for text, label in toys.sentiment("A")]
    wrong = [Row(text, {"positive": "negative"}.get(label, "positive")) for text, label in right[:16]]
    [judge] = train_judges(data, [SENTIMENT])
    judge = replace(judge, scores=measure(judge, {"right": right, "wrong": wrong}))
    assert [score.accuracy for score in judge.scores] == [1, 0]
    assert judge.accuracy == pytest.approx(48 / 64)


def test_a_judge_is_the_same_however_often_it_is_trained(data):
    for one, two in zip(train_judges(data), train_judges(data), strict=True):
        assert one.weights.tobytes() == two.weights.tobytes() and one.bias.tobytes() == two.bias.tobytes()


def test_one_more_plan_is_one_more_judge(data):
    plan = Plan("rank", ("business", "sports", "world"), TOPIC.sources, columns=2**12)
    [judge] = train_judges(data, [plan])
    assert judge.labels == ("business", "sports", "world") and judge.weights.shape == (3, 2 * 2**12)
    assert judge(["The coach and the goal", "The minister and the treaty"]) == ["sports", "world"]
    assert judge([]) == []


def test_a_text_without_any_known_word_still_has_a_label(data):
    for judge in train_judges(data):
        assert set(judge(["", "\u2603"])) <= set(judge.labels)


def test_no_row_that_an_adapter_saw_reaches_a_judge(data):
    seen = adapters_texts(data)
    train, tests = split(TOPIC, files(TOPIC, data), seen)
    rows = [text for text, _ in [*train, *tests["ag_news/train.jsonl.gz"]]]
    assert {side(text) for text in rows} == {"judge"}
    assert len(rows) == sum(side(text) == "judge" for text, _ in toys.topics())


def test_a_row_copied_from_the_adapters_files_is_dropped(data):
    copied = ("HER  film was lovely.", "positive")
    rows = files(SENTIMENT, data)
    rows["imdb_short/train.jsonl.gz"] = [copied, *rows["imdb_short/train.jsonl.gz"]]
    train, _ = split(SENTIMENT, rows, adapters_texts(data))
    assert copied not in train and len(train) > 48


def test_no_row_is_in_both_halves():
    plan = Plan("x", ("a",), (Source("one", "train"), Source("two", "test"), Source("three", "fold")))
    texts = [(f"text {i}", "a") for i in range(50)]
    rows = {"one": texts, "two": [("Text 7", "a")], "three": texts}
    train, tests = split(plan, rows, frozenset())
    tested = {text.lower() for rows in tests.values() for text, _ in rows}
    assert "text 7" in tested and tests["three"]
    assert not tested & {text for text, _ in train}


def test_the_fold_depends_on_nothing_but_the_text():
    texts = [f"text number {i}" for i in range(2000)]
    share = sum(fold(text) == "test" for text in texts) / len(texts)
    assert share == pytest.approx(0.2, abs=0.04)
    assert all(fold(f"  {text.upper()} ") == fold(text) for text in texts[:50])
    judges = [text for text in texts if side(text) == "judge"]
    assert sum(fold(text) == "test" for text in judges) / len(judges) == pytest.approx(0.2, abs=0.06)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ComposerError, match=r"\.jsonl\.gz is missing"):
        train_judges(tmp_path)


@pytest.mark.parametrize("content", [b"not gzip", b""])
def test_a_broken_file_is_named(tmp_path, content):
    toys.write(tmp_path)
    (tmp_path / "imdb_short/test.jsonl.gz").write_bytes(content)
    with pytest.raises(ComposerError, match=r"imdb_short/test\.jsonl\.gz is missing"):
        train_judges(tmp_path, [SENTIMENT])


def test_too_few_rows_are_refused(tmp_path):
    toys.write(tmp_path, {**toys.FILES, "ag_news/train.jsonl.gz": toys.topics()[:2]})
    with pytest.raises(ComposerError, match="too few rows to train the topic judge"):
        train_judges(tmp_path, [TOPIC])
