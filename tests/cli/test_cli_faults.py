"""The shell's door: any fault of any command is one line on stderr and an exit code."""

from __future__ import annotations

import errno

import pytest
import torch
from safetensors import SafetensorError

from composer.cli.main import main
from composer.core.errors import ComposerError
from tests.tools.shell import shell

COMMANDS = {
    "generate": ["generate", "--prompt", "x"],
    "explain": ["explain", "--prompt", "x"],
    "fuse": ["fuse", "--prompt", "x"],
    "check": ["check", "x"],
    "train": ["train", "sports", "--out", "{out}", "--work", "{out}"],
    "judges": ["judges", "--data", ".", "--out", "{out}"],
    "evaluate": ["evaluate", "--out", "{out}"],
    "study": ["study", "--stage", "develop", "--out", "{out}"],
    "bench": ["bench", "--out", "{out}"],
}
FAULTS = [
    (OSError(errno.ENOSPC, "No space left on device", "w.bin"), 2, "The disk is full (w.bin)"),
    (OSError(errno.EROFS, "Read-only file system"), 2, "read-only"),
    (PermissionError(errno.EACCES, "Permission denied"), 2, "ermission"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), 2, "disk is full"),
    (RuntimeError("shapes [2]\nand [3] differ"), 2, "RuntimeError"),
    (MemoryError(), 2, "memory"),
    (torch.OutOfMemoryError("CUDA out of memory"), 2, "memory"),
    (ModuleNotFoundError("No module named 'ray'", name="ray"), 2, "package ray is not installed"),
    (KeyError("model"), 2, "--verbose"),
    (ComposerError("Choose\nanother."), 2, "Choose another."),
    (KeyboardInterrupt(), 130, ""),
]


@pytest.mark.parametrize(("fault", "code", "words"), FAULTS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("command", COMMANDS)
def test_any_fault_of_any_command_is_one_line(command, fault, code, words, tmp_path, capsys, monkeypatch):
    def fail(*args, **options):
        raise fault

    for place in (
        "composer.engine.engine.Engine.from_catalog",
        "composer.adapters.catalog.load_catalog",
        "composer.evaluation.judges.training.train_judges",
        "composer.study.design.environment.StudyEnvironment.engine",
        "benchmarks.run.run",
    ):
        monkeypatch.setattr(place, fail)
    assert main([word.format(out=tmp_path / "out") for word in COMMANDS[command]]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == (code == 2) and words in err


@pytest.mark.parametrize("kind", ["a file", "below a file"])
@pytest.mark.parametrize("command", [name for name, words in COMMANDS.items() if "{out}" in words])
def test_an_unwritable_out_is_reported_before_any_work(command, kind, tmp_path, capsys, monkeypatch):
    def work(*args, **options):
        pytest.fail("it worked for nothing")

    for place in (
        "composer.engine.engine.Engine.from_catalog",
        "composer.evaluation.judges.training.train_judges",
    ):
        monkeypatch.setattr(place, work)
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "below" if kind == "below a file" else tmp_path / "file"
    assert main([word.format(out=out) for word in COMMANDS[command]]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--out" in err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("kind", ["none", "folder", "latin-1", "utf-16", "binary", "empty", "list"])
def test_a_catalog_that_is_none_is_one_line(kind, tmp_path, capsys):
    path = tmp_path / "adapters.yaml"
    content = {
        "latin-1": "default: caf\u00e9".encode("latin-1"),
        "utf-16": "default: x".encode("utf-16"),
        "binary": bytes(range(256)),
        "empty": b"",
        "list": b"- x",
    }
    if kind == "folder":
        path.mkdir()
    elif kind != "none":
        path.write_bytes(content[kind])
    assert main(["fuse", "--prompt", "x", "--catalog", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "atalog" in err


def test_a_recipe_file_of_bytes_is_one_line(tmp_path, capsys):
    (tmp_path / "recipes.yaml").write_bytes(b"\xff\xfe\x00")
    assert main(["train", "--recipes", str(tmp_path / "recipes.yaml")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "recipe file" in err


@pytest.mark.parametrize("line", ["composer --help >/dev/full", "composer --help >&-", "composer fuse >&-"])
def test_an_answer_that_goes_nowhere_is_no_success(line):
    done = shell(line)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("composer: ")


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_without_stderr_a_fault_is_still_an_exit_code(closed):
    for buffered in ("", "1"):
        done = shell(f"PYTHONUNBUFFERED={buffered} composer generate {closed}")
        assert (done.returncode, done.stdout) == (2, "")
