"""The stages from the shell: develop, report with module seeds, judge again, rerun, and runs joined."""

import json
import shutil
from dataclasses import replace

import pytest

from composer.cli.main import main
from composer.evaluation.prompts import DEVELOPMENT, REPORT, load_prompts, part, prompt_hash, prompts_of
from composer.study.design.environment import StudyEnvironment
from composer.study.run_record import FILE, RERUN, read_run, write_run
from tests.study import tiny_project
from tests.tools import tiny

NAMES = ("negative", "positive", "sports", "world")
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A catalog with a base that can be told, two trainings of its adapters, labelled text, and prompts."""
    folder = tmp_path_factory.mktemp("stages")
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE
    for training in ("first", "second"):
        for place, name in enumerate((*NAMES, "combined")):
            tiny.adapter(folder / training / name, "llama", place + 20 * (training == "second"), r=2)
    new = [f"A new beginning {number}" for number in range(12)]
    few = [text for wanted in (DEVELOPMENT, REPORT) for text in prompts_of(new, wanted, 3)]
    (folder / "prompts.txt").write_text("\n".join(few))
    return tiny_project.write(folder, NAMES, "first/", tokenizer)


def stage(project, out, *more, arms="sum,contrast"):
    places = {"--catalog": "adapters.yaml", "--data": "data", "--prompts": "prompts.txt", "--out": out}
    argv = [word for option, name in places.items() for word in (option, str(project / name))]
    return ["study", *argv, "--arms", arms, "--tokens", "4", "--strengths", "0.5,1", "--json", *more]


def seeds(project):
    return ["--module-seeds", f"{project / 'first'},{project / 'second'}"]


@pytest.fixture(scope="module")
def choices(project):
    assert main(stage(project, "develop", "--stage", "develop", "--targets-per-prompt", "1")) == 0
    return project / "develop/choices.json"


@pytest.fixture(scope="module")
def reported(project, choices):
    argv = stage(project, "report", "--stage", "report", "--choices", str(choices), *seeds(project))
    assert main(argv) == 0
    return project / "report"


def texts(folder):
    return [json.loads(line) for line in (folder / "texts.jsonl").read_text("utf-8").splitlines()]


def told(folder):
    return json.loads((folder / "report.json").read_text("utf-8"))


def test_develop_chooses_on_development_prompts_alone_and_says_what_was_tried(project, choices):
    found = json.loads(choices.read_text())
    assert {part(each["prompt"]) for each in texts(choices.parent)} == {DEVELOPMENT}
    assert set(found["prompts"]) == {prompt_hash(each["prompt"]) for each in texts(choices.parent)}
    assert set(found["arms"]) == {"sum", "contrast"} and found["base"] == "tiny/llama"
    tried = told(choices.parent)["trials"]
    assert len([each for each in tried if each["arm"] == "contrast"]) == 3 * 2
    fluent = [
        each for each in tried if each["arm"] == "contrast" and each["perplexity"] <= (found["bound"] or 1e9)
    ]
    if fluent:
        assert found["arms"]["contrast"]["control"] == max(each["control"] for each in fluent)
    assert "| arm | constants | strength |" in (choices.parent / "report.md").read_text()


def test_report_makes_the_chosen_settings_for_each_training_and_tests_the_claims(project, reported, choices):
    assert {part(each["prompt"]) for each in texts(reported)} == {REPORT}
    record = read_run(reported / FILE)
    chosen = json.loads(choices.read_text())["arms"]
    strengths = {(each.arm, each.name): each.strength for each in record.settings}
    assert strengths["sum", "chosen"] == chosen["sum"]["strength"] and strengths["sum", "one"] == 1
    keys = {
        arm: [{c.key for c in record.cells if (c.arm, c.module_seed) == (arm, seed)} for seed in (0, 1)]
        for arm in ("base", "prompting", "sum")
    }
    assert keys["base"][0] == keys["base"][1] and keys["prompting"][0] == keys["prompting"][1]
    assert not keys["sum"][0] & keys["sum"][1]
    assert len(texts(reported)) == len({cell.key for cell in record.cells})

    answer = told(reported)
    claims = {claim["id"]: claim for claim in answer["claims"]}
    assert {"sum-prompting", "sum-sentiment", "contrast-sum-chosen"} <= set(claims)
    [test] = claims["sum-prompting"]["runs"][0]["tests"]
    assert len(test["by_module_seed"]) == 2 and test["adjusted"] >= test["p"] and test["prompts"] == 3
    # What the page reads.
    [own] = answer["runs"]
    assert own["base"] == "tiny/llama" and own["standings"].startswith("| way |")
    assert own["unfinished"] is None and {"attribute", "overall"} <= set(own["patterns"][0])
    page = (reported / "report.md").read_text()
    assert page.startswith("# Which way of composing works?\n\nOf ") and "| verdict | claim |" in page
    assert str(project) not in page and "### All ways" in page
    assert (reported / "fluency-1.svg").is_file() and not list(reported.glob("*.html"))


def test_a_report_that_is_run_again_makes_nothing_anew(project, reported, choices, capsys):
    before = (reported / "texts.jsonl").read_bytes(), (reported / "report.md").read_bytes()
    argv = stage(project, "report", "--stage", "report", "--choices", str(choices), *seeds(project))
    assert main(argv) == 0
    assert before == ((reported / "texts.jsonl").read_bytes(), (reported / "report.md").read_bytes())


def test_a_report_is_told_again_without_the_base(reported, tmp_path, capsys):
    moved = tmp_path / "report"
    shutil.copytree(reported, moved)
    (moved / "report.md").unlink()
    assert main(["study", "--report", "--pack", "--catalog", "none", "--out", str(moved)]) == 0
    assert (moved / "report.md").read_bytes() == (reported / "report.md").read_bytes()
    assert {"texts.jsonl.gz", "scores.jsonl.gz"} <= {each.name for each in moved.iterdir()}
    assert not list(moved.rglob("*.jsonl"))


def test_other_judges_read_the_same_texts_without_the_base(project, reported, tmp_path, capsys):
    moved = tmp_path / "report"
    shutil.copytree(reported, moved)
    shutil.rmtree(moved / "judged")
    argv = [
        "study",
        "--judge-again",
        "--data",
        str(project / "data"),
        "--catalog",
        "none",
        "--out",
        str(moved),
    ]
    assert main(argv) == 0, capsys.readouterr().err
    assert told(moved)["claims"] == told(reported)["claims"]


def test_a_part_is_made_again_with_fresh_seeds_and_compared(project, reported, tmp_path, capsys):
    moved = tmp_path / "report"
    shutil.copytree(reported, moved)
    before = {text["key"]: text for text in texts(moved)}
    argv = stage(project, "report", "--rerun", "0.5", *seeds(project))
    argv[argv.index("--out") + 1] = str(moved)
    assert main(argv) == 0, capsys.readouterr().err
    after = {text["key"]: text for text in texts(moved)}
    fresh = [text for key, text in after.items() if key not in before]
    assert fresh and all(after[key] == text for key, text in before.items())
    assert not {text["seed"] for text in fresh} & {text["seed"] for text in before.values()}
    answer = told(moved)
    assert answer["claims"] == told(reported)["claims"]
    assert {each["claim"] for each in answer["rerun"]} == {each["id"] for each in answer["claims"]}
    assert {each["within"] for each in answer["rerun"]} == {None}  # three prompts tell nothing
    assert "## Made again" in (moved / "report.md").read_text()
    assert main([*argv[: argv.index("--module-seeds")]]) == 2
    assert "give --module-seeds as many" in capsys.readouterr().err


@pytest.fixture(scope="module")
def apart(project, choices):
    """The report stage once for each training, with a rerun of it."""
    folders = [project / f"apart-{name}" for name in ("first", "second")]
    for folder, name in zip(folders, ("first", "second"), strict=True):
        one = ["--module-seeds", str(project / name)]
        assert main(stage(project, folder.name, "--stage", "report", "--choices", str(choices), *one)) == 0
        assert main(stage(project, folder.name, "--rerun", "0.5", *one)) == 0
    return folders


def test_runs_of_one_training_each_are_merged_into_what_one_run_of_both_is(reported, apart, tmp_path, capsys):
    out = tmp_path / "merged"
    folders = ",".join(map(str, apart))
    assert main(["study", "--merge", folders, "--out", str(out), "--pack"]) == 0, capsys.readouterr().err
    both, merged = read_run(reported / FILE), read_run(out / FILE)
    assert set(merged.cells) == set(both.cells) and merged.trainings == both.trainings
    assert len(set(merged.trainings)) == merged.module_seeds == 2
    for name in ("claims", "tables"):
        assert told(out)[name] == told(reported)[name]
    assert told(out)["runs"][0]["notes"][0].startswith("2 runs in one")
    [again] = {tuple(sorted({cell.module_seed for cell in read_run(out / RERUN).cells}))}
    assert again == (0, 1) and told(out)["rerun"]
    assert main(["study", "--merge", folders, "--out", str(out)]) == 2
    assert "give --merge an empty folder" in capsys.readouterr().err


def test_what_is_no_run_of_the_same_study_is_not_merged(project, choices, apart, tmp_path, capsys):
    first, second = apart

    def refused(*folders):
        assert main(["study", "--merge", ",".join(map(str, folders)), "--out", str(tmp_path / "no")]) == 2
        return capsys.readouterr().err

    assert "the same training of the modules" in refused(first, first)
    assert "--merge takes folders" in refused("")
    assert "two or more" in refused(first)
    assert "no finished run" in refused(first, tmp_path)
    record = read_run(second / FILE)
    for place, (changed, said) in enumerate(
        [
            ({"precision": "nf4"}, "differ in precision"),
            ({"prompts": (*record.prompts, "Another")}, "differ in prompts"),
            ({"trainings": ()}, "does not say which modules"),
        ]
    ):
        other = shutil.copytree(second, tmp_path / str(place))
        write_run(replace(record, **changed), other / FILE)
        assert said in refused(first, other)
    unread = shutil.copytree(second, tmp_path / "unread")
    shutil.rmtree(unread / "judged")
    assert "other judges" in refused(first, unread)
    assert not (tmp_path / "no/run.json.gz").exists()


def test_a_rerun_with_other_modules_than_the_run_s_is_refused(project, apart, tmp_path, capsys):
    moved = shutil.copytree(apart[0], tmp_path / "moved")
    argv = stage(project, "x", "--rerun", "0.5", "--module-seeds", str(project / "second"))
    argv[argv.index("--out") + 1] = str(moved)
    assert main(argv) == 2
    assert "The modules are not the run's" in capsys.readouterr().err


def test_a_rerun_knows_the_trainings_in_any_order(project, reported, tmp_path, capsys):
    def again(name, *seeds):
        moved = shutil.copytree(reported, tmp_path / name)
        folders = ",".join(str(project / seed) for seed in seeds)
        argv = stage(project, "x", "--rerun", "0.5", "--module-seeds", folders)
        argv[argv.index("--out") + 1] = str(moved)
        return main(argv), moved

    (_, one), (code, other) = again("one", "first", "second"), again("other", "second", "first")
    assert code == 0, capsys.readouterr().err
    assert set(read_run(one / RERUN).cells) == set(read_run(other / RERUN).cells)
    assert again("twice", "first", "first")[0] == 2
    assert "The modules are not the run's" in capsys.readouterr().err


def test_runs_whose_trainings_stand_in_another_order_are_paired_training_by_training(apart, tmp_path, capsys):
    four = []
    for folder in apart:
        own = shutil.copytree(folder, tmp_path / f"{folder.name}-nf4")
        write_run(replace(read_run(own / FILE), precision="nf4"), own / FILE)
        four.append(own)
    for name, folders in (("full", apart), ("nf4", four[::-1])):
        merged = ",".join(map(str, folders))
        assert main(["study", "--merge", merged, "--out", str(tmp_path / name), "--pack"]) == 0
    argv = ["study", "--join", f"{tmp_path / 'full'},{tmp_path / 'nf4'}", "--out", str(tmp_path / "joined")]
    assert main(argv) == 0, capsys.readouterr().err
    [claim] = [each for each in told(tmp_path / "joined")["claims"] if each["id"] == "sum-nf4"]
    test = claim["runs"][0]["tests"][0]
    # They are the same texts.
    assert test["value"] == test["low"] == test["high"] == 0 and test["by_module_seed"] == [0, 0]


def test_runs_are_joined_and_a_claim_between_precisions_appears(project, reported, tmp_path, capsys):
    four = tmp_path / "nf4"
    shutil.copytree(reported, four)
    record = read_run(four / FILE)
    write_run(replace(record, precision="nf4"), four / FILE)
    out = tmp_path / "joined"
    argv = ["study", "--join", f"{reported},{four}", "--out", str(out), "--json"]
    assert main(argv) == 0, capsys.readouterr().err
    answer = told(out)
    assert [run["precision"] for run in answer["runs"]] == ["none", "nf4"]
    claims = {claim["id"]: claim for claim in answer["claims"]}
    assert [run["run"] for run in claims["sum-nf4"]["runs"]] == ["tiny, nf4"]
    # The same texts: no difference at all, and the mean of two runs is each of them.
    assert claims["sum-nf4"]["mean"]["value"] == 0
    one, two = (run["tests"][0] for run in claims["sum-prompting"]["runs"])
    assert one["value"] == two["value"] == pytest.approx(claims["sum-prompting"]["mean"]["value"])
    assert main(["study", "--join", f"{reported},{reported}", "--out", str(out)]) == 2
    assert "leave one of them out" in capsys.readouterr().err
    assert main(["study", "--join", str(tmp_path), "--out", str(out)]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_a_develop_stage_cannot_be_joined_and_a_damaged_run_is_a_sentence(choices, tmp_path, capsys):
    assert main(["study", "--join", str(choices.parent), "--out", str(tmp_path)]) == 2
    assert "is no report" in capsys.readouterr().err
    for content in (b"no gzip", b""):
        (tmp_path / FILE).write_bytes(content)
        assert main(["study", "--join", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
        assert "damaged" in capsys.readouterr().err


def test_the_report_refuses_choices_that_saw_a_report_prompt(project, choices, tmp_path, capsys):
    stored = json.loads(choices.read_text())
    stored["prompts"].append(prompt_hash(prompts_of(load_prompts(), REPORT)[0]))
    (tmp_path / "choices.json").write_text(json.dumps(stored))
    argv = stage(project, "refused", "--stage", "report", "--choices", str(tmp_path / "choices.json"))
    assert main(argv) == 2
    assert "so they prove nothing" in capsys.readouterr().err
    assert not (project / "refused/texts.jsonl").exists()


@pytest.mark.parametrize(
    ("more", "cure"),
    [
        (["--stage", "report"], "--stage report needs --choices"),
        (["--stage", "develop", "--join", "a"], "Give one of --stage, --report, --merge, --join"),
        ([], "Give one of --stage, --report, --merge, --join"),
        (["--join", ","], "--join takes folders"),
        (["--merge", ","], "--merge takes folders"),
        (["--stage", "develop", "--module-seeds", "no-such"], "has no adapter called negative"),
        (["--stage", "develop", "--arms", "contrast-0.5"], "There is no arm called"),
        (["--stage", "develop", "--targets-per-prompt", "0"], "--targets-per-prompt must be at least 1"),
        (["--stage", "develop", "--seeds", "101"], "--seeds must be at most 100"),
        (["--report"], "no finished run"),
        (["--rerun", "0.1"], "no finished run"),
    ],
)
def test_bad_input_names_the_cure(project, capsys, more, cure):
    assert main(stage(project, "bad", *more)) == 2
    assert cure in capsys.readouterr().err


def test_another_training_takes_the_place_of_the_catalog_s(project):
    first, second = (
        StudyEnvironment(str(project / "adapters.yaml"), adapters=str(project / name)).engine()
        for name in ("first", "second")
    )
    assert first.names == second.names == (*NAMES, "combined")
    assert {group.name for group in second.attributes} == {"sentiment", "topic"}
    sources = [spec.source for spec in second.snapshot.adapters]
    assert all(str(project / "second") in source for source in sources)
