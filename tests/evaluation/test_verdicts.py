"""Verdicts beside the texts: each text is read once by each judge, whatever happens to the run."""

import json

import pytest

from composer.core.errors import ComposerError
from composer.evaluation.generation import GeneratedText
from composer.evaluation.judges.ngram_judge import HeldOut
from composer.evaluation.verdicts import TOGETHER, JudgeCard, Verdicts, card_of

TEXTS = [GeneratedText(f"k{place}", "The film", 0, {}, f" was {place % 3}") for place in range(TOGETHER + 9)]


class Says:
    """A judge that reads its answer off the text, and counts."""

    attribute, name, labels = "sentiment", "sentiment (toy)", ("negative", "positive")

    def __init__(self, accuracy=0.9):
        self.scores, self.read = (HeldOut("a/b.jsonl", 10, accuracy),), 0

    def __call__(self, texts):
        self.read += len(texts)
        return ["positive" if text.endswith("0") else "negative" for text in texts]


class Ends(Says):
    def __call__(self, texts):
        if self.read:
            raise KeyboardInterrupt
        return super().__call__(texts)


def test_texts_are_read_once_and_the_labels_kept(tmp_path):
    judge, counts = Says(), []
    Verdicts(tmp_path).add(judge, TEXTS, counts.append)
    assert judge.read == sum(counts) == len(TEXTS)
    found = Verdicts(tmp_path)
    [card] = found.judges
    assert card == card_of(judge) and card.accuracy == 0.9 and card.rows == 10
    assert found.labels(card, TEXTS[:2]) == ["positive", "negative"]
    found.add(judge, TEXTS)
    assert judge.read == len(TEXTS)


def test_a_judge_that_was_cut_off_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Verdicts(tmp_path).add(Ends(), TEXTS)
    judge = Says()
    Verdicts(tmp_path).add(judge, TEXTS)
    assert judge.read == 9


def test_a_text_that_was_made_again_is_read_again(tmp_path):
    judge, verdicts = Says(), Verdicts(tmp_path)
    verdicts.add(judge, TEXTS[:3])
    other = GeneratedText("k1", "The film", 0, {}, " was 0")
    assert verdicts.labels(card_of(judge), [other]) == [None]
    verdicts.add(judge, [other])
    assert verdicts.labels(card_of(judge), [other]) == ["positive"] and judge.read == 4


def test_a_judge_trained_again_takes_the_place_of_the_former(tmp_path):
    verdicts = Verdicts(tmp_path)
    verdicts.add(Says(0.8), TEXTS[:3])
    later = Says(0.9)
    verdicts.add(later, TEXTS[:3])
    assert later.read == 3 and [card.accuracy for card in Verdicts(tmp_path).judges] == [0.9]


def test_packed_verdicts_are_read(tmp_path):
    verdicts = Verdicts(tmp_path)
    verdicts.add(Says(), TEXTS)
    verdicts.pack()
    assert not list(tmp_path.rglob("*.jsonl"))
    assert None not in Verdicts(tmp_path).labels(card_of(Says()), TEXTS)


def test_a_stored_judge_cannot_name_a_file_elsewhere_and_damage_is_a_sentence(tmp_path):
    card = JudgeCard("../../evil", "x", (), ())
    assert "/" not in card.id and "." not in card.id and card.accuracy is None
    (tmp_path / "judged").mkdir()
    for text in ("{", json.dumps([{"attribute": "x"}]), "[1]"):
        (tmp_path / "judged/judges.json").write_text(text)
        with pytest.raises(ComposerError, match=r"judges\.json"):
            Verdicts(tmp_path)
