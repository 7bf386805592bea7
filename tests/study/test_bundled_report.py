"""The bundled report is what the bundled runs say, byte for byte; README and docs have its tables."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from composer.cli.main import main
from composer.core.assets import ASSETS
from composer.evaluation.generation import GeneratedText
from composer.evaluation.store import Store
from composer.study.joined import joined
from composer.study.reporting.files import Report, marks, write
from composer.study.run_record import FILE, read_run, write_run
from composer.study.runs import load_run
from tests.study import planted_run

ROOT = Path(__file__).parents[2]
RECORDS = {
    FILE,
    "rerun.json.gz",
    "choices.json",
    "domains.json",
    "texts.jsonl.gz",
    "scores.jsonl.gz",
    "judged",
}


def folders(study: Path) -> list[Path]:
    return sorted(each for each in (study / "runs").glob("*") if each.is_dir())


def differences(study: Path, copies: Path) -> list[str]:
    """Files of a study's folder that are not what its runs say. The runs are read from `copies`."""
    runs = [Path(shutil.copytree(each, copies / each.name)) for each in folders(study)]
    report = joined([load_run(run) for run in runs])
    expected = {"report.md": report.markdown, "report.json": report.json, **report.figures}
    found = {each.name: each.read_text("utf-8") for each in study.iterdir() if each.is_file()}
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def test_the_bundled_report_is_what_the_bundled_runs_say(tmp_path):
    assert differences(ASSETS / "study", tmp_path) == []


def test_the_bundled_runs_are_packed_records_alone():
    for run in folders(ASSETS / "study"):
        assert {each.name for each in run.iterdir()} <= RECORDS
        assert all(each.name.endswith((".gz", "judges.json")) for each in (run / "judged").iterdir())


@pytest.mark.parametrize(("file", "table"), [("README.md", "summary"), ("docs/study.md", "ways")])
def test_readme_and_docs_show_the_bundled_tables(file, table):
    tables = json.loads((ASSETS / "study/report.json").read_text("utf-8"))["tables"]
    text = (ROOT / file).read_text("utf-8")
    start, end = marks(table)
    assert f"{start}{tables[table]}{end}" in text, f"run --join again with --tables {file}"


def test_the_docs_have_what_the_run_of_best_of_eight_says(tmp_path):
    run = load_run(Path(shutil.copytree(ASSETS / "study/best-of-8", tmp_path / "run")))
    rows = [row for row in joined([run]).markdown.splitlines() if "best of 8 | chosen 1 (" in row]
    [(_, _, _, right, by_words, _, sentiment, topic, _, perplexity, times, *_)] = [
        [cell.strip() for cell in row.split("|")] for row in rows
    ]
    told = " | ".join((right, by_words, sentiment, topic, perplexity, times))
    assert f"| {told} |" in (ROOT / "docs/study.md").read_text("utf-8")
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"both right in {right} on SmolLM2 in 4 bits" in readme


# --- planted runs --------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path, capsys):
    """Two planted runs, and the report that the command makes of them."""
    folder = tmp_path / "study"
    runs = [
        planted_run.write(folder / "runs/nf4", "nf4", average=0.7),
        planted_run.write(folder / "runs/full"),
    ]
    (tmp_path / "README.md").write_text("Before.\n\n{}old{}\n\nAfter.\n".format(*marks("summary")))
    tables = ["--tables", str(tmp_path / "README.md")]
    argv = ["study", "--join", ",".join(map(str, runs)), "--out", str(folder), *tables]
    assert main(argv) == 0, capsys.readouterr().err
    return folder


def test_planted_runs_make_their_report_byte_for_byte_in_any_order(study, tmp_path):
    assert differences(study, tmp_path / "a") == []
    assert {each.name for each in study.iterdir()} == {
        "runs",
        "report.md",
        "report.json",
        "overview.svg",
        *(f"{name}-{place}.svg" for name in ("fluency", "alpha") for place in (1, 2)),
    }
    assert all({each.name for each in run.iterdir()} <= RECORDS for run in folders(study))


def test_figures_of_an_earlier_report_go_and_other_files_stay(tmp_path):
    for name in ("fluency-9.svg", "domains-2.svg", "own.svg", "fluency-9.txt"):
        (tmp_path / name).write_text("earlier")
    write(Report("", "{}", {"fluency-1.svg": "<svg />"}), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.md", "report.json", "fluency-1.svg", "own.svg", "fluency-9.txt"}


def test_a_changed_verdict_and_a_changed_page_are_seen(study, tmp_path):
    page = study / "report.md"
    page.write_text(page.read_text().replace("holds", "does not hold", 1))
    assert differences(study, tmp_path / "a") == ["report.md"]
    [verdicts] = (study / "runs/full/judged").glob("topic-*.jsonl.gz")
    text = gzip.decompress(verdicts.read_bytes()).decode()
    verdicts.write_bytes(gzip.compress(text.replace('"sports"', '"no"').encode(), mtime=0))
    assert {"report.json", "report.md", "fluency-1.svg"} <= set(differences(study, tmp_path / "b"))


def test_the_report_has_all_ways_the_picture_and_the_layers(study):
    page = (study / "report.md").read_text("utf-8")
    for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page):
        assert (study / name).read_text("utf-8").startswith("<svg ")
    assert page.count("![") == 5 and page.count("### All ways") == 2
    [full, nf4] = json.loads((study / "report.json").read_text())["runs"]
    assert (full["title"], nf4["title"]) == ("Tiny, full", "Tiny, nf4")
    assert full["standings"].split("\n\nJudges")[0] in page
    assert re.search(r"\| Sum of outputs \| \d+\.\d% \[.+?\] \| 12\.0 \| \d+\.\d% ", full["standings"])
    assert re.search(r"\| KL fusion .+? paper scale \| \d.+?% .+? \| - \| - \| - \| - \|", full["standings"])
    assert "| sentiment, mean over layers | 16 | +10.0 points | 0.0100 | follows the prompt |" in page


def test_a_text_that_failed_is_told_and_one_that_was_never_tried_is_unfinished(tmp_path, capsys):
    folder = planted_run.write(tmp_path / "run")
    store, record = Store(folder), read_run(folder / FILE)
    lost, *_ = [cell for cell in record.cells if cell.arm == "sum"]
    failed = GeneratedText(lost.key, lost.prompt, 0, {}, fault="The prompt is too long.")
    store.run_pending([], lambda *_: iter([failed]))
    never = replace(lost, key="never", seed=9)
    write_run(replace(record, cells=(*record.cells, never)), folder / FILE)
    assert main(["study", "--report", "--out", str(folder)]) == 0
    page = capsys.readouterr().out
    assert "| 1 text | - | The prompt is too long. |" in page
    assert "Unfinished on Tiny, full: 1 texts are missing." in page


def test_the_marks_of_a_page_get_the_tables(study, tmp_path, capsys):
    text = (tmp_path / "README.md").read_text()
    summary = json.loads((study / "report.json").read_text())["tables"]["summary"]
    start, end = marks("summary")
    assert text == f"Before.\n\n{start}{summary}{end}\n\nAfter.\n"
    assert re.search(r"\| Adding modules' outputs .+? \| \*\*\w+\*\* \| \+\d+\.\d \[", summary)
    assert re.search(r"\| \w+ on every base \|", summary)
    (tmp_path / "bare.md").write_text("Nothing.\n")
    join = ["study", "--join", str(study / "runs/full"), "--out", str(tmp_path / "out")]
    assert main([*join, "--tables", str(tmp_path / "bare.md")]) == 2
    assert "has no place for a table" in capsys.readouterr().err
    assert main([*join, "--tables", str(tmp_path / "none.md")]) == 2
    assert "give --tables Markdown files" in capsys.readouterr().err
    assert main(["study", "--report", "--tables", "README.md"]) == 2
    assert "--tables needs --join" in capsys.readouterr().err
