"""The table over a tiny random base: real generation, real scoring, toy judges."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from composer.cli.main import main
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.evaluation.adapter_table import make_texts, plan, summarise
from composer.evaluation.judges.ngram_judge import HeldOut
from composer.evaluation.prompts import load_prompts, prompts_of
from composer.evaluation.store import Store
from composer.evaluation.texts import BASE, Task, Text
from composer.training.model_card import MEASURED
from tests.evaluation import toys
from tests.tools import tiny

SAMPLING = Sampling(max_new_tokens=8, time_limit=600)
PROMPTS = ("The film", "A goal")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return tiny.engine(
        "llama", {"positive": tiny.adapter(folder / "positive", "llama", 1, r=4, lora_alpha=8)}
    )


class Keyword:
    """A judge that reads one word: what it says can be worked out by eye."""

    attribute, labels = "sentiment", ("negative", "positive")

    def __call__(self, texts):
        return ["positive" if "good" in text else "negative" for text in texts]


def text(subject, prompt, continuation, perplexity=2.0):
    return Text("", subject, prompt, 0, continuation, perplexity)


def test_the_bundled_prompts_are_the_35_of_pplm():
    prompts = load_prompts()
    assert len(prompts) == 35
    assert (prompts[0], prompts[-1]) == ("In summary", "The year is 1910.")


def test_prompts_files_are_checked(tmp_path):
    (tmp_path / "some.txt").write_text("\n one \n\ntwo\none\n")
    assert load_prompts(tmp_path / "some.txt") == ("one", "two")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ComposerError, match="empty"):
        load_prompts(tmp_path / "empty.txt")
    with pytest.raises(ComposerError, match="cannot be read"):
        load_prompts(tmp_path / "none.txt")


def test_the_plan_pairs_subjects_and_gives_every_text_its_own_seed():
    tasks = plan((BASE, "positive"), PROMPTS, 3)
    assert len(tasks) == 12
    base, adapter = tasks[:6], tasks[6:]
    assert [(task.prompt, task.seed) for task in base] == [(task.prompt, task.seed) for task in adapter]
    assert len({task.seed for task in base}) == 6


def test_texts_are_those_of_the_engine_one_by_one(engine, tmp_path):
    tasks = plan((BASE, "positive"), PROMPTS, 1)
    texts = make_texts(engine, tasks, Store(tmp_path), sampling=SAMPLING, batch=3)
    for task, made in zip(tasks, texts, strict=True):
        composition = Composition(weights={} if task.subject == BASE else {"positive": 1})
        steps = list(engine.generate(task.prompt, composition, replace(SAMPLING, seed=task.seed)))
        assert made.continuation == steps[-1].text
    assert texts[0].continuation != texts[2].continuation


def test_perplexity_is_of_the_continuation_given_the_prompt_under_the_base(engine, tmp_path):
    [made] = make_texts(engine, [Task("positive", "The film", 5)], Store(tmp_path), sampling=SAMPLING)
    ids = engine.base.tokenizer(made.prompt + made.continuation)["input_ids"]
    with torch.no_grad():
        logs = tiny.model("llama")(torch.tensor([ids])).logits[0].log_softmax(-1)  # [T, V], never gated
    nll = [-logs[place - 1, ids[place]].item() for place in range(len("The film"), len(ids))]
    assert made.perplexity == pytest.approx(np.exp(np.mean(nll)), rel=1e-4)


def test_a_second_run_makes_nothing_again(engine, tmp_path):
    tasks = plan((BASE, "positive"), PROMPTS, 1)
    path = tmp_path / "texts.jsonl"
    first = make_texts(engine, tasks[:2], Store(path.parent), sampling=SAMPLING)
    size = path.stat().st_size
    counts = []
    both = make_texts(engine, tasks, Store(path.parent), sampling=SAMPLING, progress=counts.append)
    assert both[:2] == first and counts == [2, 1, 1] and path.stat().st_size > size
    full = path.read_bytes()
    assert make_texts(engine, tasks, Store(path.parent), sampling=SAMPLING) == both
    assert path.read_bytes() == full


def test_other_settings_or_another_training_are_other_texts(engine, tmp_path):
    task = Task("positive", "The film", 0)
    records = Store(tmp_path)
    [one] = make_texts(engine, [task], records, sampling=SAMPLING)
    [two] = make_texts(engine, [task], records, sampling=replace(SAMPLING, temperature=0.5))
    other = tiny.engine(
        "llama", {"positive": tiny.adapter(tmp_path / "other", "llama", 9, r=4, lora_alpha=8)}
    )
    [three] = make_texts(other, [task], records, sampling=SAMPLING)
    louder = tiny.engine(
        "llama", {"positive": tiny.adapter(tmp_path / "louder", "llama", 9, r=4, lora_alpha=9)}
    )
    [four] = make_texts(louder, [task], records, sampling=SAMPLING)
    [patient] = make_texts(engine, [task], records, sampling=replace(SAMPLING, time_limit=900))
    assert len({one.key, two.key, three.key, four.key}) == 4 and patient == one


def test_rows_by_hand():
    texts = [
        text(BASE, "The film", " is good", 2.0),
        text(BASE, "A good", " day", 4.0),
        text("positive", "The film", " is good", 3.0),
        text("positive", "A good", " is good", None),
    ]
    base, adapter = summarise(texts, [Keyword()])
    assert (base.subject, adapter.subject) == (BASE, "positive")
    assert base.shares["positive"].value == 1 and base.alone["positive"].value == 0.5
    assert base.shares["negative"].value == 0
    assert adapter.alone["positive"] == adapter.shares["positive"]
    assert base.alone["positive"].low == 0 and base.alone["positive"].high == 1
    assert (base.perplexity, adapter.perplexity) == (3.0, 3.0)
    assert base.distinct2 == 1  # is good
    assert adapter.distinct2 == 0.5


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A catalog, its adapters with a card, a data folder and prompts, as `composer evaluate` takes them."""
    folder = tmp_path_factory.mktemp("evaluate")
    tiny.model("llama").save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    for seed, name in enumerate(("sports", "mine")):
        tiny.adapter(folder / name, "llama", seed, r=2)
    (folder / "sports/README.md").write_text(
        f"# sports\n\n{MEASURED[0]}\nnothing yet\n{MEASURED[1]}\n\nEnd.\n"
    )
    (folder / "mine/README.md").write_text("# mine\n")
    (folder / "adapters.yaml").write_text(
        "default: tiny\nbases:\n  tiny: {id: tiny/llama, folder: base, "
        "adapters: {sports: {source: sports}, mine: {source: mine}}}\n"
        "  tiny-nf4: {like: tiny, quantization: nf4}\n"
    )
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    toys.write(folder / "data")
    return folder


def evaluate(project, *more):
    places = {"--catalog": "adapters.yaml", "--data": "data", "--prompts": "prompts.txt", "--out": "out"}
    argv = [word for option, name in places.items() for word in (option, str(project / name))]
    return main(["evaluate", *argv, "--seeds", "1", *more])


def test_evaluate_prints_writes_and_fills_in_cards(project, capsys):
    assert evaluate(project, "--json", "--write-cards") == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert answer == json.loads((project / "out/table.json").read_text())
    assert [row["subject"] for row in answer["rows"]] == [BASE, "sports", "mine"]
    assert {judge["attribute"]: judge["accuracy"] for judge in answer["judges"]} == {
        "sentiment": 1,
        "topic": 1,
    }
    assert sum(answer["rows"][1]["shares"][label]["value"] for label in toys.TOPICS) == pytest.approx(1)
    assert answer["setting"]["sampling"]["max_new_tokens"] == 60
    assert "mine has no model card" in err

    share = answer["rows"][1]["shares"]["sports"]["value"]
    table = (project / "out/table.md").read_text()
    assert f"| sports | {share:.1%} [" in table
    assert "| mine | - | - | - |" in table  # no judge knows it
    assert "100.0% right" in table and "--seeds 1" in table and str(project) not in table

    card = (project / "sports/README.md").read_text()
    assert card.startswith(f"# sports\n\n{MEASURED[0]}\n| base |") and card.endswith(
        f"{MEASURED[1]}\n\nEnd.\n"
    )
    assert (
        f"| in full | {share:.1%} [" in card and "Judge of topic" in card and "Judge of sentiment" not in card
    )
    assert (project / "mine/README.md").read_text() == "# mine\n"


def test_a_card_has_the_rows_of_both_precisions(project, capsys):
    assert evaluate(project) == 0
    other = ["--base", "tiny-nf4", "--out", str(project / "nf4"), "--write-cards"]
    assert evaluate(project, *other, "--beside", str(project / "out")) == 0
    card = (project / "sports/README.md").read_text()
    rows = [line for line in card.splitlines() if line.startswith("| in ")]
    assert [row.split(" | ")[0] for row in rows] == ["| in 4 bits (nf4)", "| in full"] and rows[0] != rows[1]
    assert "Made by `python -m composer evaluate --seeds 1 --base tiny-nf4" in card
    assert "base tiny/llama in 4 bits (nf4), tiny/llama in full." in card
    answers = [json.loads((project / run / "table.json").read_text()) for run in ("nf4", "out")]
    for row, answer in zip(rows, answers, strict=True):
        assert f" {answer['rows'][1]['perplexity']:.2f} |" in row
    (project / "nf4/table.json").write_text("{}")
    capsys.readouterr()
    assert evaluate(project, "--beside", str(project / "nf4")) == 2
    assert "no finished table in nf4" in capsys.readouterr().err


def test_a_language_model_s_verdicts_lead_and_the_word_counts_are_beside_them(project, capsys, monkeypatch):
    class Sporty:
        name, attribute, labels = "topic (a language model)", "topic", tuple(toys.TOPICS)
        scores = (HeldOut("rows", 10, 0.9),)

        def __call__(self, texts):
            return ["sports"] * len(texts)

        def __str__(self):
            return f"{self.name}: 90.0%"

    monkeypatch.setattr("composer.cli.judges.lora_judges", lambda args: (Sporty(),))
    assert evaluate(project, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["rows"][1]["shares"]["sports"]["value"] == 1
    assert {judge["attribute"]: judge["accuracy"] for judge in answer["judges"]} == {
        "sentiment": 1,
        "topic": pytest.approx(0.9),
    }
    assert len(answer["panels"]) == 1


def test_only_the_prompts_of_a_part_are_continued(project, capsys):
    assert evaluate(project, "--json", "--part", "report") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["setting"]["prompts"] == len(prompts_of(PROMPTS, "report")) < len(PROMPTS)
    assert "--part report" in answer["setting"]["command"]


def test_evaluate_goes_on_from_its_texts(project, capsys):
    assert evaluate(project, "--adapters", "sports") == 0
    texts = (project / "out/texts.jsonl").read_bytes()
    first = capsys.readouterr().out
    assert evaluate(project, "--adapters", "sports") == 0
    assert capsys.readouterr().out == first
    assert (project / "out/texts.jsonl").read_bytes() == texts


@pytest.mark.parametrize(
    ("more", "cure"),
    [
        (["--adapters", "nope"], "There are: sports, mine"),
        (["--seeds", "0"], "at least 1"),
        (["--prompts", "no-such-file"], "prompts file"),
        (["--most-prompts", "3"], "choose one with --part"),
        (["--part", "report", "--most-prompts", "0"], "at least 1"),
    ],
)
def test_bad_input_names_the_cure(project, capsys, more, cure):
    assert evaluate(project, *more) == 2
    assert cure in capsys.readouterr().err
