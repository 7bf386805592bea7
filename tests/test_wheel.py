"""The wheel: it has the catalog and what the catalog names, and the command works outside a checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel's content, unpacked as an installation has it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_names_its_command_licence_and_requirements(installed):
    (info,) = installed.glob("*.dist-info")
    metadata = (info / "METADATA").read_text("utf-8")
    assert "composer = composer.cli.main:main" in (info / "entry_points.txt").read_text("utf-8")
    assert (info / "licenses/LICENSE").is_file() and "License-Expression: Apache-2.0" in metadata
    required = [line.split("Requires-Dist: ")[1] for line in metadata.splitlines() if "Requires-Dist" in line]
    named = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line[0] != "#"]
    assert len(required) == len(named) > 5


def test_the_wheel_has_no_tests_benchmarks_or_study_texts(installed):
    assert {path.name for path in installed.iterdir() if path.is_dir()} == {
        "composer",
        next(installed.glob("*.dist-info")).name,
    }
    assert not list(installed.rglob("*.jsonl.gz"))


def run(installed: Path, folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(installed), "PATH": "", "HOME": str(folder)},
        capture_output=True,
        text=True,
    )


READ_CATALOG = """
from pathlib import Path
from composer.adapters.catalog import load_catalog
base = load_catalog("adapters.yaml").base()
print(sum(Path(adapter.source).is_dir() for adapter in base.adapters))
"""
FIND_FILES = """
from composer.evaluation import prompts
from composer.evaluation.judges import serialization
from composer.ui import recordings
from composer.ui.views import study_results
from composer.ui.components import template
files = prompts.BUNDLED, serialization.BUNDLED, study_results.REPORT, template.FOLDER, recordings.RECORDINGS
print(sum(file.exists() for file in files))
"""
MAIN = "import sys; from composer.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize(("code", "count"), [(READ_CATALOG, 12), (FIND_FILES, 5)])
def test_bundled_files_are_found_outside_a_checkout(code, count, installed, tmp_path):
    done = run(installed, tmp_path, code)
    assert done.stdout.strip() == str(count), done.stderr


def test_the_command_has_help_and_refuses_benchmarks_in_one_sentence(installed, tmp_path):
    assert run(installed, tmp_path, MAIN, "--help").returncode == 0
    done = run(installed, tmp_path, MAIN, "bench")
    assert done.returncode == 2 and "repository" in done.stderr and "Traceback" not in done.stderr
