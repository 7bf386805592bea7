"""The judge that is a language model with a LoRA adapter."""

import json
from dataclasses import replace

import pytest
import torch

from composer.adapters.catalog import load_catalog
from composer.cli.main import main
from composer.core.assets import ASSETS
from composer.core.errors import ComposerError
from composer.evaluation.judges import lora_judge, lora_training
from composer.evaluation.judges.lora_judge import LoraJudge, LoraJudgeFile, load_lora_judges, read_judge_file
from composer.evaluation.judges.lora_training import LORA_PLANS, train_lora_judge
from composer.evaluation.judges.ngram_judge import HeldOut
from composer.evaluation.judges.training import Source, adapters_texts, held_out, some
from composer.model.checkpoints.files import is_here
from composer.training.classifier import ClassifierTraining, LabelPrompt, train_classifier
from composer.training.data import Row, normal
from tests.evaluation import toys
from tests.tools import tiny
from tests.tools.interruption import watch_steps
from tests.training.test_train import base

PROMPT = LabelPrompt("?", {"bad": "-", "good": "+"}, 24)
ROWS = [
    Row(f"{word} {number}", label) for number in range(60) for word, label in (("aaa", "good"), ("zz", "bad"))
]
TRAINING = ClassifierTraining(rank=4, learning_rate=0.02, batch=12, epochs=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    work = tmp_path_factory.mktemp("judge")
    return train_classifier(PROMPT, base(), ROWS, TRAINING, work / "mood", work / "work")


def judge(folder, prompt=PROMPT, scores=()) -> LoraJudge:
    return LoraJudge(LoraJudgeFile("mood", prompt, "tiny", "tiny/llama", ("a",), 9, scores), base(), folder)


def test_it_learns_what_tells_the_labels_apart(folder):
    texts = ["zz 7000", "aaa 5", "aaa 333", "zz 4"]
    assert judge(folder)(texts) == ["bad", "good", "good", "bad"]
    assert judge(folder)([]) == []


def test_a_run_that_was_killed_in_a_checkpoint_goes_on_from_the_one_before(tmp_path, monkeypatch):
    begun, training = watch_steps(monkeypatch, kill_at=6), replace(TRAINING, epochs=1, save_every=4)
    with pytest.raises(KeyboardInterrupt):
        train_classifier(PROMPT, base(), ROWS, training, tmp_path / "mood", tmp_path / "work")
    (tmp_path / "work" / "checkpoint-6").mkdir()
    train_classifier(PROMPT, base(), ROWS, training, tmp_path / "mood", tmp_path / "work")
    assert begun == [*range(7), *range(4, 10)]


def test_its_scores_are_the_answers_chances_under_peft(folder):
    from peft import PeftModel

    texts = ["aaa 1 of many more words than the others", "zz", "a z"]
    model = PeftModel.from_pretrained(base().model, folder)
    tokenizer = tiny.tokenizer()
    for text, own in zip(texts, judge(folder).scored(texts), strict=True):
        ids = torch.tensor([PROMPT.encode(tokenizer, text)])  # [1, T]
        chosen = model(ids).logits[0, -1, PROMPT.tokens(tokenizer)]  # [K]
        torch.testing.assert_close(own, chosen.log_softmax(0), atol=1e-4, rtol=1e-4)


def test_only_the_first_tokens_of_a_long_text_are_read(folder):
    long = "aaa " * 50
    assert len(PROMPT.encode(tiny.tokenizer(), long)) == PROMPT.length + 1
    one, two = judge(folder).scored([long, long + "zz " * 50])
    torch.testing.assert_close(one, two)


def test_answers_must_be_a_token_each():
    with pytest.raises(ComposerError, match="single token"):
        replace(PROMPT, answers={"bad": "no", "good": "+"}).tokens(tiny.tokenizer())


def test_a_plan_becomes_a_judge_with_what_it_got_right(tmp_path, monkeypatch):
    data = toys.write(tmp_path / "data")
    rows = replace(LORA_PLANS["topic"].rows, sources=(Source("ag_news/train.jsonl.gz", "fold"),))
    answers = {label: mark for label, mark in zip(rows.labels, "1234", strict=True)}
    plan = replace(
        LORA_PLANS["topic"],
        rows=rows,
        prompt=LabelPrompt("?", answers, 24),
        training=replace(TRAINING, epochs=0.2),
    )
    monkeypatch.setattr(lora_training, "MEASURED", 20)
    made = train_lora_judge(plan, "tiny", base, data, tmp_path / "out", tmp_path / "work")
    [score] = made.scores
    assert score.rows == 20 and 0 <= score.accuracy <= 1
    card = (tmp_path / "out" / "topic" / "README.md").read_text("utf-8")
    assert f"| ag_news/train.jsonl.gz | 20 | {score.accuracy:.1%} |" in card and "base_model: tiny" in card
    file = read_judge_file(tmp_path / "out" / "topic")
    assert file.scores == made.scores and file.prompt == plan.prompt
    assert LoraJudge(file, base(), tmp_path / "out" / "topic")(["a text"]) == made(["a text"])


def test_no_row_that_an_adapter_saw_is_trained_on(tmp_path):
    data = toys.write(tmp_path / "data")
    seen = adapters_texts(data)
    train, tests = held_out(LORA_PLANS["topic"].rows, data, seen)
    read = {normal(row.text) for row in (*train, *(row for rows in tests.values() for row in rows))}
    assert read and read.isdisjoint(seen)


def test_a_limit_takes_the_same_rows_in_any_order():
    assert some(ROWS, 5) == some(ROWS[::-1], 5) and len(some(ROWS, 5)) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"format": 0},
        {"answers": {"good": "+"}},
        {"answers": ["+"]},
        {"attribute": "<b>"},
        {"length": 0},
        {"held_out": [{"file": "a", "rows": 1, "accuracy": 2}]},
        {"base": None},
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, change):
    lora_judge.save_judge_file(LoraJudgeFile("mood", PROMPT, "tiny", "tiny/llama", ("a",), 9, ()), tmp_path)
    assert read_judge_file(tmp_path).prompt == PROMPT
    path = tmp_path / lora_judge.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ComposerError, match="make it again"):
        read_judge_file(tmp_path)


def test_the_shell_trains_and_loads_them(tmp_path, capsys):
    stored = tmp_path / "base"
    tiny.model("llama").save_pretrained(stored)
    words = tiny.tokenizer()
    words.save_pretrained(stored)
    catalog = tmp_path / "adapters.yaml"
    catalog.write_text("default: tiny\nbases: {tiny: {id: tiny/llama, folder: base}}")
    with pytest.raises(ComposerError, match="no LoRA judge in that folder"):
        load_lora_judges(tmp_path, load_catalog(catalog))
    data = toys.write(tmp_path / "data")
    order = [
        "judges",
        "--lora",
        "tiny",
        "--catalog",
        str(catalog),
        "--data",
        str(data),
        "--only",
        "sentiment",
    ]
    # Its bytes are the tokens, so no word is one.
    assert main([*order, "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]) == 2
    assert "single token" in capsys.readouterr().err
    work = tmp_path / "judges" / "mood"
    train_classifier(PROMPT, base(), ROWS[:12], replace(TRAINING, epochs=1), work, tmp_path / "w")
    file = LoraJudgeFile("mood", PROMPT, "tiny", "tiny/llama", ("a",), 9, (HeldOut("a", 5, 1.0),))
    lora_judge.save_judge_file(file, work)
    [loaded] = load_lora_judges(work.parent, load_catalog(catalog))
    assert loaded.name == "mood (tiny)" and len(loaded(["a", "b"])) == 2
    lora_judge.save_judge_file(replace(file, base_id="other/base"), work)
    with pytest.raises(ComposerError, match="trained on other/base"):
        load_lora_judges(work.parent, load_catalog(catalog))


def test_the_bundled_judges_read_words_in_their_order():
    catalog = load_catalog("adapters.yaml")
    if not is_here(catalog.base("gemma3-270m")):
        pytest.skip("gemma3-270m is not here: python -m composer fetch gemma3-270m")
    sentiment, topic = load_lora_judges(ASSETS / "judges" / "gemma3-270m", catalog, "cpu")
    assert sentiment(
        ["The film is not good at all.", "Not bad, it is a joy to watch.", "A dull, lifeless mess."]
    ) == [
        "negative",
        "positive",
        "negative",
    ]
    assert topic(
        [
            "The striker scored twice as the hosts won the cup final.",
            "Shares of the bank fell after it cut its profit forecast.",
            "The new chip lets phones run software without a network.",
            "The president met rebel leaders to talk about a ceasefire.",
        ]
    ) == ["sports", "business", "sci-tech", "world"]
    for judge_ in (sentiment, topic):
        assert sum(s.accuracy * s.rows for s in judge_.scores) / sum(s.rows for s in judge_.scores) >= 0.91
