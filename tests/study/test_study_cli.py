"""python -m composer study: all arms from the shell to choices, killed on the way, and on Ray."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from composer.cli.main import main
from composer.core.composition import Sampling
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.evaluation.generation import GeneratedText, Score, generate_texts
from composer.evaluation.prompts import DEVELOPMENT, prompts_of
from composer.study.design.arms import all_arms
from composer.study.design.environment import StudyEnvironment
from composer.study.design.plan import GenerationJob
from composer.study.design.tuning import REFERENCES
from composer.study.ray_worker import Cluster, ray_work
from composer.study.run_record import FILE, read_run
from tests.study import tiny_project
from tests.tools import tiny

NAMES = ("negative", "positive", "sports", "world")
SAMPLING = Sampling(max_new_tokens=6, time_limit=600)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A catalog with its base and adapters, a data folder for the judges, and prompts."""
    folder = tmp_path_factory.mktemp("study")
    for seed, name in enumerate(NAMES):
        tiny.adapter(folder / name, "llama", seed, r=2)
    new = [f"A new beginning {number}" for number in range(12)]
    (folder / "prompts.txt").write_text("\n".join(prompts_of(new, DEVELOPMENT, 3)))
    return tiny_project.write(folder, NAMES)


def words(project, out, *more):
    places = {"--catalog": "adapters.yaml", "--data": "data", "--prompts": "prompts.txt", "--out": out}
    argv = [word for option, name in places.items() for word in (option, str(project / name))]
    return ["study", "--stage", "develop", *argv, "--tokens", "6", "--strengths", "0.5,1", *more]


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_arm_is_generated_and_chosen_or_said_to_be_missing(project, capsys):
    few = ["--targets-per-prompt", "1", "--most-prompts", "1", "--strengths", "1"]
    assert main(words(project, "whole", *few, "--json")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == json.loads((project / "whole/report.json").read_text())
    record = read_run(project / "whole" / FILE)
    missing = {each.arm for each in record.missing}
    assert missing == {"prompting", "combined"}
    made = {cell.arm for cell in record.cells}
    assert made == set(all_arms()) - missing and set(answer["choices"]["arms"]) == made - set(REFERENCES)
    told = (project / "whole/report.md").read_text()
    assert "different texts fill" in told and str(project) not in told and "--tokens 6" in told
    keys = [text["key"] for text in lines(project / "whole/texts.jsonl")]
    assert len(set(keys)) == len(keys)
    assert {score["key"] for score in lines(project / "whole/scores.jsonl")} == set(keys)


def test_a_run_killed_from_outside_goes_on(project, capsys):
    slowly = ["--arms", "sum,kl-unit", "--slots", "2"]  # so that it is killed before its last text
    argv = words(project, "killed", *slowly)
    path = project / "killed/texts.jsonl"
    command = [sys.executable, "-m", "composer", *argv]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as run:
        while run.stderr.read(1) and not (path.exists() and path.read_bytes().count(b"\n") >= 5):
            pass
        run.send_signal(signal.SIGKILL)
    assert run.returncode == -signal.SIGKILL
    kept = [line for line in path.read_text("utf-8").split("\n")[:-1]]

    assert main(["study", "--report", "--out", str(project / "killed")]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert main(argv) == 0
    after = path.read_text("utf-8").splitlines()
    assert after[: len(kept)] == kept and len(after) == len({json.loads(line)["key"] for line in after})
    assert main(words(project, "straight", *slowly)) == 0
    assert sorted(after) == sorted((project / "straight/texts.jsonl").read_text("utf-8").splitlines())
    one, two = ((project / name / "choices.json").read_text() for name in ("killed", "straight"))
    assert one == two


@pytest.mark.parametrize(
    ("more", "cure"),
    [
        (["--arms", "summ"], "Did you mean sum?"),
        (["--targets", "joy"], "There are: negative+sports"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--ray-workers", "0"], "--ray-workers must be at least 1"),
        (["--strengths", "loud"], "--strengths takes numbers"),
        (["--strengths", "9"], "Strength must be a number between 0 and 4"),
        (["--tokens", "0"], "max_new_tokens"),
        (["--prompts", "no-such-file"], "prompts file"),
        (["--modules", "no-such-folder"], "--modules is not a folder"),
    ],
)
def test_bad_input_names_the_cure(project, capsys, more, cure):
    assert main(words(project, "bad", *more)) == 2
    assert cure in capsys.readouterr().err


def test_the_joint_adapter_comes_from_a_folder_beside_the_catalog(project, tmp_path):
    catalog = str(project / "adapters.yaml")
    tiny.adapter(project / "assets/adapters/combined", "llama", 9, r=2)
    try:
        assert StudyEnvironment(catalog).engine().names == (*NAMES, "combined")
    finally:
        shutil.rmtree(project / "assets")
    assert StudyEnvironment(catalog).engine().names == NAMES
    moved = tiny.adapter(tmp_path / "combined", "llama", 9, r=2).parent
    assert StudyEnvironment(catalog, modules=str(moved)).engine().names == (*NAMES, "combined")


# --- Ray -----------------------------------------------------------------------------------------


def jobs(count):
    asked = ({}, {"method": "kl", "weights": {"positive": 1.0, "sports": 1.0}, "strength": 1.25})
    long = GenerationJob("long", "x", "x" * 500, 0, {})
    return [
        long,
        *(GenerationJob(f"{seed} {place}", "The film", "The film", seed, one)
          for seed in range(count) for place, one in enumerate(asked)),
    ]  # fmt: skip


def test_ray_gives_what_the_local_engine_gives(project):
    catalog = str(project / "adapters.yaml")
    left = [GeneratedText("left", "The film", 0, {}, " is")]
    here = list(generate_texts(Engine.from_catalog(catalog), jobs(5), left, SAMPLING, 4))
    there = list(ray_work(Cluster(), StudyEnvironment(catalog), jobs(5), left, SAMPLING, 4))
    assert {each.key: each for each in there if isinstance(each, GeneratedText)} == {
        each.key: each for each in here if isinstance(each, GeneratedText)
    }
    scores = {each.key: each.perplexity for each in here if isinstance(each, Score)}
    assert {each.key: each.perplexity for each in there if isinstance(each, Score)} == pytest.approx(scores)
    assert "left" in scores and len(there) == len(here) == 11 + 11


def test_without_ray_the_sentence_says_how_to_get_it(monkeypatch, project):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ComposerError, match=r'pip install "ray\[data\]"'):
        list(ray_work(Cluster(), StudyEnvironment(str(project / "adapters.yaml")), jobs(1), [], SAMPLING, 4))


def test_nothing_to_do_starts_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(ray_work(Cluster(), StudyEnvironment("adapters.yaml"), [], [], SAMPLING, 4)) == []


def test_a_cluster_that_is_not_there_is_a_sentence(project):
    address = "127.0.0.1:1"
    with pytest.raises(ComposerError, match="--ray-address"):
        list(
            ray_work(
                Cluster(address), StudyEnvironment(str(project / "adapters.yaml")), jobs(1), [], SAMPLING, 4
            )
        )
