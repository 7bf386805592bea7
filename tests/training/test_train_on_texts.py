"""A real run on own texts at toy size: it learns, tells how far it is, goes on, and ends in the catalog."""

from __future__ import annotations

import io
import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from composer import Composition
from composer.adapters.catalog import load_catalog
from composer.cli.main import _parser, main
from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError
from composer.model.loading import Base, load_base
from composer.training.own_texts.options import Options
from composer.training.own_texts.reader import OwnTexts
from composer.training.own_texts.run import Folders, train_on_texts
from composer.training.pipeline import Bases
from composer.training.progress import TrainingProgress
from composer.training.trainer import newest_checkpoint
from tests.tools import tiny
from tests.tools.interruption import watch_steps

DOCS = Path(__file__).parents[2] / "docs"
SPEC = BaseSpec("llama", "tiny/llama")
TEXTS = tuple(f"the seal of letter {i} was broken by the king of {'abcdefg'[i % 7]}" for i in range(90))
OWN = OwnTexts(("letters.txt",), TEXTS, 3)
OPTIONS = Options(steps=14, learning_rate=0.02, batch=4, length=16)


def base() -> Base:
    return Base(SPEC, "memory", "folder", tiny.model("llama"), tiny.tokenizer())


def run(folder: Path, options: Options = OPTIONS, own: OwnTexts = OWN, force: bool = False, **others):
    to = Folders(folder / "out", folder / "work")
    return train_on_texts(
        "letters",
        own,
        options,
        others.get("bases", Bases(base, base)),
        ("tiny/llama", None, "none"),
        to,
        force,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), folder


def perplexity(engine, composition: Composition) -> float:
    return math.exp(-float(np.mean(engine.log_probs([TEXTS[0]], composition)[0])))


def test_it_learns_the_texts_and_says_what_it_measured(whole):
    results, folder = whole
    assert results.loss_after < 0.8 * results.loss_before
    assert results.steps == 14 and results.held_out == 9
    engine = tiny.engine("llama", {"letters": folder / "out" / "letters"})
    with_it = perplexity(engine, Composition(weights={"letters": 1}))
    assert with_it < 0.5 * perplexity(engine, Composition())
    card = (folder / "out" / "letters" / "README.md").read_text("utf-8")
    assert "90 texts of letters.txt" in card and f"| {results.loss_after:.2f} |" in card
    assert "3 duplicates" in card and "rank 8" in card.lower()
    assert not any(text in card for text in TEXTS), "the card quotes nothing"


def test_the_gain_is_stored_and_measured(tmp_path, whole):
    results = run(tmp_path, replace(OPTIONS, alpha_gain=3.0))
    config = json.loads((tmp_path / "out" / "letters" / "adapter_config.json").read_text("utf-8"))
    assert config["lora_alpha"] == 48
    assert results.training_loss == whole[0].training_loss and results.loss_after != whole[0].loss_after


def test_the_same_command_goes_on_and_ends_the_same(tmp_path, monkeypatch, capsys, whole):
    begun = watch_steps(monkeypatch, kill_at=12)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert "letters: stopped; the same command goes on from step 10 of 14" in capsys.readouterr().err
    # As a run leaves it that is killed while it writes a checkpoint.
    (tmp_path / "work" / "letters" / "checkpoint-12").mkdir()
    results = run(tmp_path)
    assert begun == [*range(13), *range(10, 14)]
    assert "letters: goes on from step 10 of 14" in capsys.readouterr().err
    assert results.loss_after == pytest.approx(whole[0].loss_after, abs=0.02)
    weights = [each / "out/letters/adapter_model.safetensors" for each in (tmp_path, whole[1])]
    assert weights[0].stat().st_size == weights[1].stat().st_size


def test_a_run_that_was_killed_after_its_last_step_only_measures(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        patch.setattr("composer.training.own_texts.run.check_recitation", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path)
    begun = watch_steps(monkeypatch)
    results = run(tmp_path)
    assert begun == [] and results.loss_after == pytest.approx(whole[0].loss_after, abs=0.02)


def test_what_has_ended_is_not_done_again(whole, capsys):
    results, folder = whole
    never = Bases(lambda: pytest.fail("it trained again"), lambda: pytest.fail("it wrote again"))
    assert run(folder, bases=never) == results
    assert "--force trains it again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "own", "what"),
    [
        (replace(OPTIONS, rank=4), OWN, "other rank"),
        (replace(OPTIONS, steps=9, seed=1), OWN, "other steps, seed"),
        (OPTIONS, replace(OWN, texts=TEXTS[:-1]), "other texts"),
    ],
)
def test_another_run_s_checkpoints_are_refused_and_go_with_force(tmp_path, monkeypatch, options, own, what):
    begun = watch_steps(monkeypatch, kill_at=12)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    with pytest.raises(ComposerError, match=f"began with {what}: .*--force"):
        run(tmp_path, options, own)
    assert newest_checkpoint(tmp_path / "work" / "letters").endswith("-10"), "nothing is lost by asking"
    run(tmp_path, replace(options, steps=2), own, force=True)
    assert begun == [*range(13), 0, 1]


def test_an_adapter_of_something_else_is_not_written_over(tmp_path):
    folder = tiny.adapter(tmp_path / "out" / "letters", "llama", 5, r=8, lora_alpha=64)
    before = (folder / "adapter_model.safetensors").read_bytes()
    with pytest.raises(ComposerError, match="not of this run"):
        run(tmp_path)
    assert (folder / "adapter_model.safetensors").read_bytes() == before


def test_too_few_tokens_are_told_and_more_texts_cure_it(tmp_path):
    with pytest.raises(ComposerError, match=r"100 tokens together, and at least 3000 are needed"):
        run(tmp_path, own=OwnTexts(("a.txt",), ("ab",) * 50, 0))
    run(tmp_path, replace(OPTIONS, steps=1))


def states(steps: int):
    return (SimpleNamespace(global_step=step, max_steps=steps) for step in range(1, steps + 1))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_line_tells_now_and_then_what_is_left():
    seconds = iter([0.0, *(4.0 * step for step in range(1, 7))])
    out = io.StringIO()
    progress = TrainingProgress("letters", out, lambda: next(seconds))
    progress.on_train_begin(None, SimpleNamespace(global_step=0, max_steps=6), None)
    for state in states(6):
        progress.on_log(None, state, None, {"loss": 3.14159})
        progress.on_step_end(None, state, None)
    assert out.getvalue().splitlines() == [
        "letters: step 3 of 6, loss 3.14, 00:12 left",
        "letters: step 6 of 6, loss 3.14, 00:00 left",
    ]


def test_a_terminal_has_a_bar_with_steps_loss_and_time_left():
    out = Terminal()
    progress = TrainingProgress("letters", out)
    progress.on_train_begin(None, SimpleNamespace(global_step=0, max_steps=6), None)
    for state in states(6):
        progress.on_log(None, state, None, {"loss": 3.14159})
        progress.on_step_end(None, state, None)
    progress.on_train_end(None, None, None)
    last = out.getvalue().rpartition("\r")[2]
    assert "letters: 100%" in last and "6/6" in last and "loss 3.14" in last and "00:00" in last


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a tiny base, a catalog of it and a file of texts, to work in."""
    tiny.model("llama").save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    catalog = "default: tiny\nbases:\n  tiny:\n    id: tiny/llama\n    folder: base  # here\n"
    (tmp_path / "adapters.yaml").write_text(catalog, "utf-8")
    rows = "".join(json.dumps({"body": text}) + "\n" for text in TEXTS)
    (tmp_path / "letters.jsonl").write_text(rows, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_base_that_trains_in_nf4_may_write_too(place):
    """As on a GPU, where both are one base in a process that holds weights once."""
    spec = BaseSpec("tiny", "tiny/llama", folder=str(place / "base"), quantization="nf4", dtype="bfloat16")
    norms = []

    def load() -> Base:
        loaded = load_base(spec, device="cpu")
        norms.append(loaded.model.model.norm.weight.dtype)
        return loaded

    run(place, replace(OPTIONS, steps=2), bases=Bases(load, load))
    assert norms == [torch.bfloat16, torch.bfloat16], "training casts them, and must leave none behind"


def test_the_documented_commands_work_as_written(place, capsys):
    (place / "letters.txt").write_text("\n\n".join(TEXTS), "utf-8")
    page = DOCS.joinpath("training.md").read_text("utf-8")
    commands = [line for line in page.splitlines() if line.startswith("python -m composer ")]
    assert [shlex.split(line)[3] for line in commands] == ["train", "train", "generate"]
    outputs = []
    for line in commands:
        assert main(shlex.split(line)[3:]) == 0, capsys.readouterr().err
        outputs.append(capsys.readouterr())
    read = r"letters: {} texts of letters\.txt \(0 duplicates left out\), \d+ tokens; {} texts are held out\n"
    read += r"letters: 60 steps of 8 sequences of 64 tokens, \d\.\d passes over the texts\n"
    assert re.search(read.format(90, 9), outputs[0].err) and re.search(read.format(200, 20), page)
    for start in ("letters: loss on held-out texts: ", "letters: repeats training text: "):
        assert start in outputs[0].out and start in page
    assert load_catalog("adapters.yaml").base("tiny").names == ("letters",)


def test_the_documented_options_are_those_of_the_command(capsys):
    page = DOCS.joinpath("training.md").read_text("utf-8")
    with pytest.raises(SystemExit):
        _parser().parse_args(["train", "--help"])
    told = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"(?<![a-z])--[a-z][a-z-]+", page)) - {"--prompt", "--weights"}
    assert named <= told
    assert told - named == {"--help", "--catalog", "--verbose", "--data", "--recipes", "--keep-texts"}


COMMAND = ["train", "letters", "--texts", "letters.jsonl", "--column", "body", "--steps", "2"]


def test_the_shell_trains_in_nf4_and_its_lines_load(place, capsys):
    assert main(COMMAND) == 0
    out, err = capsys.readouterr()
    assert "90 texts of letters.jsonl" in err and "2 steps of 8 sequences of 64 tokens" in err
    assert "letters: assets/adapters/letters\n" in out and "loss on held-out texts: " in out
    assert "QLoRA" in Path("assets/adapters/letters/README.md").read_text("utf-8")
    added = out[out.index("      letters:\n") :].rstrip()
    catalog = Path("adapters.yaml")
    catalog.write_text(f"{catalog.read_text('utf-8')}    adapters:\n{added}\n", "utf-8")
    [spec] = load_catalog("adapters.yaml").base("tiny").adapters
    assert spec.label == "Letters" and spec.description == "Learnt from 90 texts of letters.jsonl."
    engine = tiny.engine("llama", {"letters": Path(spec.source)})
    assert engine.names == ("letters",)
    # It is in the catalog now, so that the same command has nothing to add.
    assert main([*COMMAND, "--add"]) == 0
    assert "letters: is in adapters.yaml, under bases, tiny, adapters" in capsys.readouterr().out


def test_the_shell_adds_it_to_the_catalog_itself(place, capsys):
    assert main([*COMMAND, "--add", "--json", "--out", "made"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["adapters"] == {"letters": "made/letters"}
    assert answer["results"]["tokens"] == sum(map(len, TEXTS)) and not answer["results"]["recites"]
    [spec] = load_catalog("adapters.yaml").base("tiny").adapters
    assert spec.source == str(place / "made" / "letters")
    assert "folder: base  # here" in Path("adapters.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--texts", "letters.jsonl"], "one name"),
        (["a", "b", "--texts", "letters.jsonl"], "one name"),
        (["A", "--texts", "letters.jsonl"], "needs a name of lower-case"),
        (["a", "--texts", "letters.jsonl"], "has no text; it has body"),
        (["a", "--texts", "letters.jsonl", "--data", "."], "leave them out"),
        (["a", "--texts", "none.txt"], "no file and no folder"),
        (["a", "--steps", "3"], "--steps is for own texts"),
        (["a", "--add"], "--add is for own texts"),
        (["a", "--texts", "letters.jsonl", "--rank", "0"], "--rank must be a number between 1 and 128"),
        (["a", "--texts", "x.txt", "--learning-rate", "nan"], "--learning-rate must be a number"),
        (["a", "--texts", "letters.jsonl", "--base", "none"], "no base called"),
    ],
)
def test_a_command_that_cannot_be_is_told_in_a_line(place, capsys, words, said):
    assert main(["train", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err


def test_a_name_that_another_adapter_has_is_refused(place, capsys):
    catalog = Path("adapters.yaml")
    catalog.write_text(
        f"{catalog.read_text('utf-8')}    adapters:\n      letters: {{source: a/b}}\n", "utf-8"
    )
    assert main(COMMAND) == 2
    assert "has an adapter called letters already" in capsys.readouterr().err
