"""The command line over a tiny random base with two adapters, saved and loaded as real ones are."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from composer.cli.main import main
from composer.cli.options import parse_names, parse_numbers, parse_weights
from composer.core.errors import ComposerError
from composer.core.jsonable import to_jsonable
from tests.tools import tiny
from tests.tools.shell import shell

ROOT = Path(__file__).parents[2]
LAYERS, ADAPTERS = 3, ["loud", "quiet"]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> str:
    """A catalog of one tiny base with room for a long generation, and two adapters on it."""
    folder = tmp_path_factory.mktemp("cli")
    config = LlamaConfig(**{**tiny.COMMON, "max_position_embeddings": 8192}, num_key_value_heads=2)
    base = AutoModelForCausalLM.from_config(config)
    base.load_state_dict(tiny.model("llama").state_dict())
    base.save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    tiny.adapter(folder / "loud", "llama", 1, r=4, lora_alpha=8)
    tiny.adapter(folder / "quiet", "llama", 2, r=2, lora_alpha=1, target_modules=["q_proj"])
    tiny.adapter(folder / "dora", "llama", 3, r=2, use_dora=True)
    path = folder / "adapters.yaml"
    adapters = "{loud: {source: loud}, quiet: {source: quiet}}"
    path.write_text(
        f"default: tiny\nbases:\n  tiny: {{id: tiny/llama, folder: base, adapters: {adapters}}}\n"
    )
    return str(path)


def run_json(capsys, *argv: str) -> dict:
    """Exactly one JSON object may be on stdout."""
    code = main([*argv, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"JSON with {name}"))


# --- reading options -----------------------------------------------------------------------------


def test_weights_are_read():
    assert parse_weights(" positive=1, sports = -0.5 ,") == {"positive": 1.0, "sports": -0.5}
    assert parse_weights("") == {}


@pytest.mark.parametrize("text", ["positive", "positive=", "=x", "a=1 b=2", "a=1,a=2"])
def test_malformed_weights_name_the_cure(text):
    with pytest.raises(ComposerError, match="--weights"):
        parse_weights(text)


def test_numbers_and_names_are_read():
    assert parse_numbers("--bands", "1,0.5,-2") == (1.0, 0.5, -2.0)
    assert parse_names("a, b,") == ("a", "b")
    assert parse_names(None) is None
    with pytest.raises(ComposerError, match="--bands takes numbers"):
        parse_numbers("--bands", "1,x,2")


def test_json_values_are_plain_and_finite():
    value = {
        "a": np.array([[1.5, np.nan]], np.float32),
        "b": (np.float64(np.inf), np.int64(3)),
        "c": [True, None],
    }
    assert to_jsonable(value) == {"a": [[1.5, None]], "b": [None, 3], "c": [True, None]}


def test_the_parser_alone_does_not_import_torch():
    check = "import sys, composer.cli.main; print(composer.cli.main.main(['--help']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "generate" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 False"


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "cure"),
    [
        ([], "COMMAND"),
        (["generate"], "--prompt"),
        (["generate", "--prompt", "x", "--seed", "x"], "--seed"),
        (["generate", "--prompt", "x", "--weights", "lowd=1"], "Did you mean loud"),
        (["generate", "--prompt", "x", "--weights", "loud=nan"], "between -8 and 8"),
        (["generate", "--prompt", "x", "--weights", "loud=1e9"], "between -8 and 8"),
        (["generate", "--prompt", "x", "--weights", "loud"], "name=number"),
        (["generate", "--prompt", "x", "--bands", "1,2"], "three numbers"),
        (["generate", "--prompt", "x", "--method", "summ"], "Did you mean sum"),
        (["generate", "--prompt", "x", "--top-p", "nan"], "top_p must be"),
        (["generate", "--prompt", "x", "--max-new-tokens", "0"], "max_new_tokens must be"),
        (["generate", "--prompt", " \n "], "prompt is empty"),
        (["generate", "--prompt", "a\udcffb"], "plain text"),
        (["generate", "--prompt", "x" * 2000], "shorten it"),
        (["generate", "--prompt", "x", "--base", "big"], "the catalog has tiny"),
        (["generate", "--prompt", "x", "--weights", "loud=1", "--best-of", "17"], "between 1 and 16"),
        (["generate", "--prompt", "x", "--best-of", "2"], "give one a weight"),
        (["fuse", "--prompt", ""], "prompt is empty"),
        (["fuse", "--prompt", "x", "--adapters", "loud,mute"], "There are: loud, quiet"),
        (["evaluate", "--data", "no-such-folder"], "--data"),
    ],
)
def test_bad_input_exits_2_with_one_line(catalog, capsys, argv, cure):
    assert main([*argv, "--catalog", catalog, "--json"] if argv else []) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and cure in err


def test_a_missing_catalog_exits_2_with_one_line(capsys, tmp_path):
    assert main(["generate", "--prompt", "x", "--catalog", str(tmp_path / "none.yaml")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "catalog" in err


# --- answers -------------------------------------------------------------------------------------


def test_generate_answers_one_object(catalog, capsys):
    argv = ["generate", "--prompt", "The movie", "--weights", "loud=1,quiet=0.5", "--max-new-tokens", "6"]
    answer = run_json(capsys, *argv, "--seed", "3", "--catalog", catalog)
    contribution = np.array(answer["contribution"])
    assert answer["adapters"] == ADAPTERS and answer["layers"] == LAYERS
    assert contribution.shape == (len(answer["tokens"]), LAYERS, len(ADAPTERS))
    assert contribution[:, :, 0].min() > 0
    assert "".join(answer["pieces"]) == answer["text"]
    assert answer["fusion"] is None
    assert (answer["base"], answer["base_source"]) == ("tiny/llama", "folder")
    assert (answer["method"], answer["seed"]) == ("sum", 3)
    assert answer["weights"] == {"loud": 1.0, "quiet": 0.5}
    assert answer["finish"] in ("length", "end")
    assert answer["tokens_per_second"] > 0

    again = run_json(capsys, *argv, "--seed", "3", "--catalog", catalog)
    assert again["tokens"] == answer["tokens"]


def test_best_of_prints_the_likeliest_text_and_the_seed_that_writes_it_again(catalog, capsys):
    argv = ["generate", "--prompt", "The movie", "--weights", "loud=1,quiet=0.5", "--max-new-tokens", "6"]
    assert main([*argv, "--best-of", "3", "--json", "--catalog", str(catalog)]) == 0
    made = json.loads(capsys.readouterr().out)
    seeds = [each["seed"] for each in made["best_of"]]
    assert len(set(seeds)) == 3 and made["seed"] == seeds[0]
    assert made["text"] == made["best_of"][0]["continuation"]
    assert made["best_of"] == sorted(made["best_of"], key=lambda each: -each["score"])
    assert main([*argv, "--seed", str(seeds[0]), "--json", "--catalog", str(catalog)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["text"] == made["text"] and "best_of" not in again
    assert main([*argv, "--best-of", "3", "--catalog", str(catalog)]) == 0
    assert f"seed {seeds[0]}, best of 3 (" in capsys.readouterr().err


def test_generate_with_a_merge_prints_its_notes(catalog, capsys):
    argv = ["generate", "--prompt", "The movie", "--weights", "loud=1,quiet=1", "--max-new-tokens", "3"]
    answer = run_json(capsys, *argv, "--method", "core", "--core", "0.1", "--catalog", catalog)
    assert answer["adapters"] == [*ADAPTERS, "core"]
    assert (
        0 <= answer["merge"]["jaccard"] <= 1 and 0 < answer["merge"]["chance"] < answer["merge"]["kept"] <= 1
    )
    assert run_json(capsys, *argv, "--catalog", catalog)["merge"] == {}


def test_generate_on_the_logits(catalog, capsys):
    argv = [
        "--prompt",
        "The movie",
        "--catalog",
        catalog,
        "--weights",
        "loud=1,quiet=1",
        "--temperature",
        "0",
    ]
    answer = run_json(capsys, "generate", *argv, "--method", "logits", "--max-new-tokens", "4")
    assert answer["method"] == "logits" and len(answer["tokens"]) > 0
    assert np.shape(answer["contribution"]) == (len(answer["tokens"]), LAYERS, 2)


def test_generate_with_kl_answers_its_fusion(catalog, capsys):
    argv = ["--prompt", "The movie", "--catalog", catalog]
    answer = run_json(
        capsys, "generate", *argv, "--weights", "loud=1,quiet=1", "--method", "kl", "--max-new-tokens", "2"
    )
    alone = run_json(capsys, "fuse", *argv)
    np.testing.assert_allclose(answer["fusion"]["kl"], alone["kl"], rtol=1e-5)
    np.testing.assert_allclose(np.sum(answer["fusion"]["alpha"], axis=1), 1, rtol=1e-5)
    assert np.shape(alone["alpha"]) == (LAYERS, len(ADAPTERS))
    assert alone["adapters"] == ADAPTERS and alone["layers"] == LAYERS
    assert len(alone["undecided"]) == LAYERS
    assert alone["norm_correlation"] is None or -1 <= alone["norm_correlation"] <= 1


def test_fuse_takes_a_choice_of_adapters(catalog, capsys):
    answer = run_json(capsys, "fuse", "--prompt", "Hello", "--adapters", "quiet", "--catalog", catalog)
    assert answer["adapters"] == ["quiet"]
    np.testing.assert_array_equal(answer["alpha"], np.ones((LAYERS, 1)))


def test_check_says_what_fits_and_what_does_not(catalog, capsys):
    folder = Path(catalog).parent
    fits = run_json(capsys, "check", str(folder / "quiet"), "--catalog", catalog)
    assert fits["ok"] and fits["reasons"] == []
    assert set(fits["ranks"].values()) == {2} and len(fits["ranks"]) == LAYERS

    assert main(["check", str(folder / "dora"), "--catalog", catalog, "--json"]) == 1
    refused = json.loads(capsys.readouterr().out)
    assert not refused["ok"] and "DoRA" in refused["reasons"][0]

    assert main(["check", str(folder / "quiet"), "--catalog", catalog]) == 0
    assert "fits (3 sites, rank 2)" in capsys.readouterr().out


def test_without_json_text_goes_to_stdout_and_figures_to_stderr(catalog, capsys):
    argv = [
        "generate",
        "--prompt",
        "The movie",
        "--max-new-tokens",
        "5",
        "--temperature",
        "0",
        "--catalog",
        catalog,
    ]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert out == f"The movie{run_json(capsys, *argv)['text']}\n"
    assert "tokens/s" in err and "tiny/llama" in err

    assert main(["fuse", "--prompt", "The movie", "--catalog", catalog]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["layer", *ADAPTERS]
    assert [line.split()[0] for line in table[1 : LAYERS + 1]] == ["0", "1", "2"]


# --- as a process --------------------------------------------------------------------------------


def start(catalog: str, *argv: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "composer", "generate", "--prompt", "The", "--catalog", catalog, *argv]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    # A shell that runs the tests in the background ignores SIGINT, and a child would inherit that.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, env=environment, preexec_fn=listen)


def test_stdout_of_the_process_is_nothing_but_the_object(catalog):
    out, err = start(catalog, "--max-new-tokens", "3", "--json", "-v").communicate()
    assert json.loads(out)["base"] == "tiny/llama"
    assert b"tiny/llama" in err  # -v logs where the base came from


def test_nothing_but_the_answer_is_seen_of_a_run_that_went_well(catalog):
    """And bitsandbytes, which warns of kernels that nobody needs, is not even imported."""
    argv = ["explain", "--prompt", "The", "--weights", "loud=1,quiet=1", "--max-new-tokens", "2"]
    code = f"import sys; from composer.cli.main import main; code = main({[*argv, '--catalog', catalog]!r})"
    code += "; sys.exit(code or 'bitsandbytes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "loud" in done.stdout


# --- dose ----------------------------------------------------------------------------------------

SWEEP = ("dose", "--weights", "loud=1", "--max-new-tokens", "3")


def prompts_file(folder) -> str:
    file = folder / "prompts.txt"
    file.write_text("The\nWho\n")
    return str(file)


def test_a_sweep_writes_its_table_and_its_texts(catalog, capsys, tmp_path):
    given = ("--sweep", "quiet=0:1:3", "--prompts", prompts_file(tmp_path), "--catalog", catalog)
    answer = run_json(capsys, *SWEEP, *given, "--seeds", "2", "--out", str(tmp_path / "out"))
    assert [row[0] for row in answer["rows"]] == [0, 0.5, 1] and answer["sweet_spot"] is None
    assert "No judge decides on quiet" in answer["sentence"]
    assert [row[-1] for row in answer["rows"]] == [4, 4, 4]  # two prompts, two seeds
    with (tmp_path / "out/texts.csv").open(encoding="utf-8", newline="") as file:
        texts = list(csv.reader(file))
    assert len(texts) == 13 and texts[0] == ["quiet", "prompt", "seed", "text", "perplexity"]
    assert (tmp_path / "out/dose.csv").read_text("utf-8").startswith("weight of quiet,all right")


def test_a_sweep_of_two_is_every_pair(catalog, capsys, tmp_path):
    given = ("--sweep", "quiet=0:1:2", "--sweep", "loud=0:1:2", "--prompts", prompts_file(tmp_path))
    answer = run_json(capsys, *SWEEP, *given, "--catalog", catalog)
    assert [row[:2] for row in answer["rows"]] == [[0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ("quiet", "name=low:high:count"),
        ("quiet=0:1", "name=low:high:count"),
        ("quiet=1:0:3", "lower than the last"),
        ("nobody=0:1:3", "no adapter called 'nobody'"),
    ],
)
def test_a_sweep_that_cannot_be_read_names_the_form(catalog, capsys, sweep, words):
    assert main([*SWEEP, "--sweep", sweep, "--catalog", catalog]) == 2
    assert words in capsys.readouterr().err


def test_ctrl_c_exits_130_without_a_word(catalog):
    # Greedy, so that no end token is drawn before the signal arrives.
    process = start(catalog, "--max-new-tokens", "4000", "--temperature", "0")
    assert process.stdout.read(4)  # it generates
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err and b"Interrupt" not in err


def test_a_reader_that_leaves_early_is_no_fault(catalog):
    process = start(catalog, "--max-new-tokens", "200")
    assert process.stdout.read(4)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == 0
    assert b"Traceback" not in err and b"Broken" not in err


def test_a_full_disk_behind_stdout_is_one_line(catalog):
    done = shell(f"composer fuse --prompt x --catalog '{catalog}' >/dev/full")
    assert done.returncode == 2
    assert done.stderr == "composer: The disk is full: free some space and try again.\n"


def test_an_encoding_without_a_character_and_closed_streams_do_not_end_a_run(catalog):
    words = f"--prompt 'caf\u00e9 \u65e5' --catalog '{catalog}' --max-new-tokens 2"
    done = shell(f"composer generate {words} <&- 2>&-", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.startswith("caf? ?")
