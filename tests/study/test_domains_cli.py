"""python -m composer domains, from the shell to its report."""

from __future__ import annotations

import json
import shutil

import pytest

from composer.cli.main import main
from tests.study import planted_run, tiny_project
from tests.tools import tiny

NAMES = ("world", "sports", "positive")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    for seed, name in enumerate(NAMES):
        tiny.adapter(folder / name, "llama", seed, r=2)
    return tiny_project.write(folder, NAMES)


def words(project, out, *more):
    places = {"--catalog": "adapters.yaml", "--data": "data", "--out": out}
    given = [word for option, name in places.items() for word in (option, str(project / name))]
    return ["domains", *given, "--per-domain", "3", *more]


def test_a_report_is_made_written_and_the_same_again(project, capsys):
    assert main(words(project, "first", "--domains", ",".join(NAMES))) == 0
    told = capsys.readouterr().out
    assert told.strip() == (project / "first/domains.md").read_text("utf-8").strip()
    assert "| The right adapter alone |" in told and "| KL (paper scale, no final norm) |" in told
    assert "(Drawn in domains.html.)" in told and str(project) not in told
    page = (project / "first/domains.html").read_text("utf-8")
    assert page.count("Plotly.newPlot(") == 2
    answer = json.loads((project / "first/domains.json").read_text("utf-8"))
    assert answer["names"] == list(NAMES) and len(answer["passages"]["base"]) == 9
    assert len(answer["shares"]["kl"]["by_layer"]) == 3

    assert main(words(project, "second", "--domains", ",".join(NAMES), "--json")) == 0
    again = json.loads(capsys.readouterr().out)
    assert {**again, "notes": None} == {**answer, "notes": None}

    run = planted_run.write(project / "run")
    shutil.copy(project / "first/domains.json", run)
    assert main(["study", "--report", "--out", str(run)]) == 0
    page = capsys.readouterr().out
    table = told[told.index("| way |") :].split("\n\n")[0]
    assert "### Without judges" in page and table in page
    short = told[told.index("## In short\n\n") + len("## In short\n\n") :].split("\n\n")
    top = page[: page.index("Judges: ")]
    assert "**Without judges**, on held-out texts of 3 domains" in top
    assert all(f"- {sentence}\n" in top and f"\n{sentence}\n" in page for sentence in short[:3])
    assert "![By layer: the right adapter's share" in page
    assert (run / "domains-1.svg").read_text("utf-8").count("<polyline") == 2 * (len(answer["shares"]) - 1)
    gone = ({"ways": [{}]}, {"ways": []}, {"names": []}, {"shares": {}})
    for content in ("no json", "[]", *(json.dumps({**answer, **each}) for each in gone)):
        (run / "domains.json").write_text(content)
        assert main(["study", "--report", "--out", str(run)]) == 2
        assert "domains.json in the run's folder is damaged" in capsys.readouterr().err


def test_adapters_of_another_folder_take_the_catalog_s_place(project, tmp_path, capsys):
    for seed, name in enumerate(("world", "sports")):
        tiny.adapter(tmp_path / name, "llama", 7 + seed, r=3)
    assert main(words(project, "catalog", "--json")) == 0
    ours = json.loads(capsys.readouterr().out)
    assert main(words(project, "other", "--adapters", str(tmp_path), "--json")) == 0
    theirs = json.loads(capsys.readouterr().out)
    assert ours["names"] == theirs["names"] == ["world", "sports"]
    assert ours["passages"]["base"] == theirs["passages"]["base"]
    assert ours["passages"]["alone"] != theirs["passages"]["alone"]
    assert "contrast" in theirs["passages"]["composed"]


@pytest.mark.parametrize(
    ("more", "cure"),
    [
        (["--per-domain", "1"], "--per-domain must be at least 2"),
        (["--per-domain", "4000"], "smaller --per-domain"),
        (["--domains", "world"], "two domains or more"),
        (["--domains", "world,poetic"], "The domain poetic needs an adapter"),
        (["--adapters", "no-such-folder"], "--adapters is not a folder"),
        (["--data", "no-such-folder"], "--data is not a folder"),
    ],
)
def test_bad_input_names_the_cure(project, capsys, more, cure):
    assert main(words(project, "bad", *more)) == 2
    assert cure in capsys.readouterr().err
