"""Rows and sequences: what is read, what is kept, what carries loss."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace

import pytest

from composer.core.errors import ComposerError
from composer.training.control_tokens import control
from composer.training.corpora import CorpusStore
from composer.training.data import IGNORED, Pool, first_sentence, pack, read_rows, side
from composer.training.recipes import load_recipes
from tests.tools import tiny

TOKENIZER = tiny.tokenizer()
NEWS = load_recipes()["sports"].corpora[0]


def write_news(folder, rows) -> None:
    path = folder / NEWS.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)


def test_sides_split_texts_about_in_half_and_ignore_case_and_spaces():
    sides = [side(f"text number {i}") for i in range(1000)]
    assert 450 < sides.count("adapter") < 550
    assert side("The  Same\ntext") == side("the same text")


def test_only_known_labels_of_the_adapters_side_are_read(tmp_path):
    texts = [f"lead number {i}" for i in range(40)]
    write_news(tmp_path, [(text, "sports") for text in texts] + [("odd one", "weather")])
    got = [row.text for row in read_rows(NEWS, tmp_path)]
    assert got == [text for text in texts if side(text) == "adapter"]
    everything = read_rows(replace(NEWS, side="all"), tmp_path)
    assert len(everything) == len(texts)


def test_a_file_s_own_labels_and_fields_choose_the_rows(tmp_path):
    path = tmp_path / NEWS.file
    path.parent.mkdir(parents=True)
    rows = [
        {"text": "Dear Sir", "label": "high", "genre": "email"},
        {"text": "hey", "label": "low", "genre": "email"},
        {"text": "so so", "label": "mid", "genre": "email"},
        {"text": "Sources say", "label": "high", "genre": "news"},
    ]
    with gzip.open(path, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    corpus = replace(NEWS, side="all", labels={"high": "formal", "low": "informal"}, where={"genre": "email"})
    assert read_rows(corpus, tmp_path) == [("Dear Sir", "formal"), ("hey", "informal")]
    assert "*high*, genre email" in corpus.described("formal")
    with pytest.raises(ComposerError, match="--data"):
        read_rows(replace(corpus, where={"genre": "poem"}), tmp_path)


def test_a_set_that_the_hub_has_not_is_asked_for_as_files():
    with pytest.raises(ComposerError, match="--data"):
        read_rows(replace(NEWS, hub=None), None)


def test_the_bundled_recipes_leave_the_judges_their_rows():
    """Half of each set is no adapter's."""
    recipes = load_recipes().values()
    read = [
        corpus for each in recipes for corpus in (*each.corpora, *each.contrast, *each.distractor_prefixes)
    ]
    assert read and all(corpus.side == "adapter" for corpus in read)
    assert all(corpus.file.endswith("/train.jsonl.gz") for corpus in read)


def test_a_missing_file_is_a_sentence_with_the_cure(tmp_path):
    with pytest.raises(ComposerError, match="--data"):
        read_rows(NEWS, tmp_path)


def test_sequences_have_one_length_and_openers_carry_no_loss():
    samples = pack(
        [Pool(1.0, ["aaaa"])], ["OPEN."], TOKENIZER, count=200, length=12, distractor_share=0.5, seed=1
    )
    opened = [sample for sample in samples if sample.labels[0] == IGNORED]
    assert 70 < len(opened) < 130
    for sample in samples:
        assert len(sample.ids) == len(sample.labels) == 12
    # A third of twelve tokens of the opener, then text with loss, each joined by a space.
    assert TOKENIZER.decode(opened[0].ids) == "OPEN aaaa aa"
    assert [label == IGNORED for label in opened[0].labels] == [True] * 4 + [False] * 8


def test_verses_are_joined_by_a_line_break_and_openers_too():
    texts = pack(
        [Pool(1.0, ["aa"])], ["O."], TOKENIZER, count=9, length=9, distractor_share=1, seed=1, separator="\n"
    )
    assert {TOKENIZER.decode(sample.ids) for sample in texts} == {"O.\naa\naa\n"}


def test_control_words_stand_before_every_text_and_carry_no_loss():
    pools = [Pool(0.5, ["aa bb"], control(["x"])), Pool(0.5, ["cc"], control(["x", "y"])), Pool(0.5, ["dd"])]
    packed = pack(pools, ["O."], TOKENIZER, count=60, length=40, distractor_share=0.5, seed=1)
    whole = {TOKENIZER.decode(sample.ids) for sample in packed}
    assert {text.split(" ")[0] for text in whole} == {"O.", "[x]", "[x,", "dd"}, "openers have none"
    for sample in packed:
        text = TOKENIZER.decode(sample.ids).removeprefix("O.")
        cut = text.rpartition(" ")[0]  # the last word is cut off where the sequence ends
        assert re.fullmatch(r"( ?(\[x\] aa bb|\[x, y\] cc|dd))*( \[x\]?| \[x,( y\]?)?| \[x\] aa)?", cut), text
        learnt = TOKENIZER.decode([label for label in sample.labels if label != IGNORED])
        assert set(learnt.split()) <= {"aa", "a", "bb", "b", "cc", "c", "dd", "d"}
        assert learnt.startswith((" ", "dd")), "the space after the control words is the text's"


def test_the_tokens_after_control_words_are_a_prompt_s():
    words = control(["x"])
    [sample] = pack([Pool(1, ["aa"], words)], [], TOKENIZER, count=1, length=6, distractor_share=0, seed=1)
    assert list(sample.ids) == TOKENIZER(words + "aa", add_special_tokens=False)["input_ids"][:6]


def test_silent_words_are_read_and_carry_no_loss():
    pools = [Pool(0.5, ["aa bb cc"], control(["x"]), silent=2), Pool(0.5, ["dd ee"])]
    for sample in pack(pools, [], TOKENIZER, count=40, length=20, distractor_share=0, seed=1):
        read = TOKENIZER.decode(sample.ids)
        learnt = TOKENIZER.decode([label for label in sample.labels if label != IGNORED])
        assert not set("xab") & set(learnt), "neither control words nor a text's first two"
        assert [learnt.count(word) for word in "cde"] == [read.count(word) for word in "cde"]


def test_pools_are_drawn_by_chance_and_evenly_within():
    samples = pack(
        [Pool(0.8, ["a", "b"]), Pool(0.2, ["c"])],
        [],
        TOKENIZER,
        count=300,
        length=9,
        distractor_share=0,
        seed=1,
    )
    text = "".join(TOKENIZER.decode(sample.ids) for sample in samples).replace(" ", "")
    assert 0.15 < text.count("c") / len(text) < 0.25
    assert abs(text.count("a") - text.count("b")) < 0.05 * len(text)


def test_the_same_seed_packs_the_same():
    options = {"count": 20, "length": 10, "distractor_share": 0.5}
    pools = [Pool(1.0, list("abcdefgh"))]
    assert pack(pools, ["x."], TOKENIZER, seed=3, **options) == pack(
        pools, ["x."], TOKENIZER, seed=3, **options
    )
    assert pack(pools, ["x."], TOKENIZER, seed=3, **options) != pack(
        pools, ["x."], TOKENIZER, seed=4, **options
    )


def test_an_empty_pool_is_a_sentence_with_the_cure():
    with pytest.raises(ComposerError, match="confidence"):
        pack([Pool(1.0, [])], [], TOKENIZER, count=1, length=4, distractor_share=0, seed=0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("It rained. Then it stopped.", "It rained."),
        ("Stop! Who goes there?", "Stop!"),
        ("One short sentence.", "One short sentence."),
        ("no end in sight", None),
        ("x" * 100 + ".", None),
        ("", None),
    ],
)
def test_openers_are_short_whole_sentences(text, sentence):
    assert first_sentence(text) == sentence


def test_mislabelled_rows_are_dropped_and_the_classifier_knows_the_labels(tmp_path):
    goals = [f"the striker scored goal number {i} in the match" for i in range(120)]
    shares = [f"shares fell by {i} percent on the market" for i in range(120)]
    write_news(
        tmp_path,
        [(text, "sports") for text in goals]
        + [(text, "business") for text in shares[:-4]]
        # Planted: four market texts labelled as sport.
        + [(text, "sports") for text in shares[-4:]],
    )
    corpus = replace(NEWS, side="all")
    labelled = CorpusStore(tmp_path).labelled([corpus], confidence=0.6, seed=0)
    kept = {row.text for row in labelled.rows[NEWS.name] if row.label == "sports"}
    assert kept == set(goals)
    sport, market = labelled.probability(["a late goal in the match", "the market and its shares"], "sports")
    assert sport > 0.7 > 0.3 > market


class _Opening:
    """The byte tokenizer with a BOS before every prompt."""

    def __init__(self):
        self.inner = tiny.tokenizer()

    def __call__(self, text, add_special_tokens=True, **options):
        found = self.inner(text, add_special_tokens=False, **options)
        found["input_ids"] = [257] * add_special_tokens + found["input_ids"]
        return found


def test_sequences_begin_as_a_prompt_does():
    rows = {"count": 20, "length": 16, "distractor_share": 0.5, "seed": 1}
    pools = [Pool(1.0, ["goal after goal", "a match"])]
    plain = pack(pools, ["Some other day."], tiny.tokenizer(), **rows)
    packed = pack(pools, ["Some other day."], _Opening(), **rows)
    assert all(sample.ids[0] == 257 and sample.labels[0] == IGNORED for sample in packed)
    assert all(257 not in sample.ids[1:] for sample in packed)
    assert packed[0].ids[1:] == plain[0].ids[:-1]
