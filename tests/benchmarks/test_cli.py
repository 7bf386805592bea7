"""`python -m composer bench` over a tiny base: what it answers, what it writes, how it refuses."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from composer.cli.main import main


def test_a_run_answers_json_and_writes_the_report(toy_catalog, tmp_path, capsys):
    out = tmp_path / "made" / "here"
    argv = ["bench", "--catalog", str(toy_catalog), "--quick", "--only", "preview", "--out", str(out)]
    assert main([*argv, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["preview"]["count"] == 20 and "single" not in answer
    assert answer["command"] == "python -m composer bench --quick --only preview"
    assert json.loads((out / f"{answer['device']}.json").read_text("utf-8")) == answer
    assert "Slider to next-token preview" in (out / "RESULTS.md").read_text("utf-8")

    # The other device's figures stay in the report that a run on this one makes.
    other = "cuda" if answer["device"] == "cpu" else "cpu"
    (out / f"{other}.json").write_text(json.dumps(answer | {"device": other}), "utf-8")
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert printed.rstrip("\n") == (out / "RESULTS.md").read_text("utf-8").rstrip("\n")
    assert printed.count("Slider to next-token preview") == 2


@pytest.mark.parametrize(
    ("argv", "cure"),
    [
        (
            ["--only", "singles"],
            "--only takes single, fusion, users, preview, page, start, contention, peers, loaded, nf4",
        ),
        (["--only", ""], "--only takes"),
        (["--base", "big"], "the catalog has tiny"),
        (["--out", "FILE"], "--out is no folder"),
        (["--out", "FOREIGN"], "cpu.json"),
    ],
)
def test_bad_input_exits_2_with_one_line(toy_catalog, tmp_path, capsys, argv, cure):
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "cpu.json").write_text('{"device": "cpu"}')
    places = {"FILE": str(tmp_path / "file"), "FOREIGN": str(tmp_path / "foreign")}
    argv = ["--out", str(tmp_path / "out"), *(places.get(word, word) for word in argv)]
    assert main(["bench", "--catalog", str(toy_catalog), "--json", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and cure in err and str(tmp_path) not in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_only_gpu_without_one_is_refused_and_leaves_earlier_figures(toy_catalog, tmp_path, capsys):
    assert main(["bench", "--catalog", str(toy_catalog), "--only", "gpu", "--out", str(tmp_path)]) == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_the_benchs_own_packages_it_says_what_to_install(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("benchmarks.")]:
        if name != "composer.cli.upkeep.bench":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert main(["bench", "--only", "start"]) == 2
    assert "psutil" in capsys.readouterr().err
