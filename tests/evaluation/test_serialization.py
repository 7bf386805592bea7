"""Stored judges: the same verdicts after as before, and one sentence for whatever else is in the file."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from composer.cli.main import main
from composer.core.errors import ComposerError
from composer.evaluation.judges.serialization import BUNDLED, load_judge, load_judges, save_judges
from composer.evaluation.judges.training import PLANS, train_judges
from tests.evaluation import toys


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toys.write(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def judges(data):
    return train_judges(data, [replace(plan, columns=2**12) for plan in PLANS.values()])


@pytest.fixture(scope="module")
def texts():
    return [text for rows in toys.FILES.values() for text, _ in rows] + ["", "The coach was lovely."]


def test_a_loaded_judge_is_the_one_that_was_saved(judges, texts, tmp_path):
    save_judges(judges, tmp_path / "new" / "folder")
    for judge, loaded in zip(judges, load_judges(tmp_path / "new" / "folder"), strict=True):
        assert loaded(texts) == judge(texts)
        assert (loaded.weights == judge.weights).all() and (loaded.bias == judge.bias).all()
        same = ("attribute", "labels", "grams", "sources", "trained_on", "scores", "accuracy")
        assert all(getattr(loaded, name) == getattr(judge, name) for name in same)
        assert str(loaded) == str(judge)


def test_saving_twice_writes_the_same_bytes(judges, tmp_path):
    [one, _], [two, _] = save_judges(judges, tmp_path / "a"), save_judges(judges, tmp_path / "b")
    assert one.read_bytes() == two.read_bytes()


def test_the_bundled_judges_are_all_there_small_and_know_their_accuracy():
    judges = {judge.attribute: judge for judge in load_judges()}
    assert {name: judge.labels for name, judge in judges.items()} == {
        name: tuple(sorted(plan.labels)) for name, plan in PLANS.items()
    }
    assert judges["sentiment"].accuracy > 0.797 and judges["topic"].accuracy >= 0.875
    assert judges["sentiment"](["A lovely, warm film.", "A dull, awful mess."]) == ["positive", "negative"]
    assert judges["topic"](["The striker scored twice in the final."]) == ["sports"]
    sizes = [path.stat().st_size for path in BUNDLED.glob("*.safetensors")]
    assert max(sizes) < 4e6 and sum(sizes) < 6e6


def spoilt(path, change=lambda header: None, **arrays):
    """The judge at `path` saved again with another header or other arrays, by safetensors itself."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["judge"])
    change(header)
    tensors = {name: array for name, array in (load_file(path) | arrays).items() if array is not None}
    save_file(tensors, path, metadata={"judge": json.dumps(header)})


BAD = {
    "another format": {"format": 2},
    "no labels": {"labels": []},
    "labels twice": {"labels": ["positive", "positive"]},
    "labels out of order": {"labels": ["positive", "negative"]},
    "a label that is Markdown": {"labels": ["a | b", "c"]},
    "a label that is a number": {"labels": [1, 2]},
    "more labels than weights": {"labels": ["a", "b", "c"]},
    "an attribute of two lines": {"attribute": "x\ny"},
    "another file's attribute": {"attribute": "topic"},
    "no n-grams": {"grams": []},
    "an analyzer of its own": {
        "grams": [{"analyzer": "os.system", "shortest": 1, "longest": 2, "columns": 4096}]
    },
    "too many columns": {"grams": [{"analyzer": "word", "shortest": 1, "longest": 2, "columns": 2**40}]},
    "endless n-grams": {"grams": [{"analyzer": "word", "shortest": 1, "longest": 10**9, "columns": 8192}]},
    "a field that no n-gram has": {"grams": [{"analyzer": "word", "pattern": "(a+)+$"}]},
    "no held-out rows": {"held_out": []},
    "an accuracy over 1": {"held_out": [{"file": "x", "rows": 5, "accuracy": 1.5}]},
    "an accuracy that is no number": {"held_out": [{"file": "x", "rows": 5, "accuracy": float("nan")}]},
    "half a row": {"held_out": [{"file": "x", "rows": 0.5, "accuracy": 0.5}]},
    "true rows": {"trained_on": True},
}


@pytest.mark.parametrize("header", BAD.values(), ids=BAD)
def test_a_hostile_header_is_one_sentence(judges, tmp_path, header):
    [path, _] = save_judges(judges, tmp_path)
    spoilt(path, lambda found: found.update(header))
    with pytest.raises(ComposerError, match=r"^The judge 'sentiment' is damaged .* judges --data FOLDER$"):
        load_judge(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"weights": None},
        {"weights": np.zeros((1, 2 * 2**12), np.float32)},
        {"weights": np.zeros((1, 5), np.float16)},
        {"weights": np.full((1, 2 * 2**12), np.nan, np.float16)},
        {"bias": np.full(1, np.inf, np.float32)},
        {"bias": np.zeros(2, np.float32)},
    ],
)
def test_arrays_that_do_not_fit_are_one_sentence(judges, tmp_path, arrays):
    [path, _] = save_judges(judges, tmp_path)
    spoilt(path, **arrays)
    with pytest.raises(ComposerError, match="'sentiment' is damaged"):
        load_judge(path)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_a_file_cut_short_is_one_sentence(judges, tmp_path, keep):
    [path, _] = save_judges(judges, tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ComposerError, match="'sentiment' is damaged"):
        load_judge(path)


def test_a_header_nested_without_end_is_one_sentence(judges, tmp_path):
    [path, _] = save_judges(judges, tmp_path)
    save_file(load_file(path), path, metadata={"judge": "[" * 200_000})
    with pytest.raises(ComposerError, match="'sentiment' is damaged"):
        load_judge(path)


def test_without_scikit_learn_it_says_what_to_install(judges, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ComposerError, match="pip install scikit-learn"):
        judges[0](["A film."])


def test_a_folder_without_judges_says_how_to_make_some(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ComposerError, match="judges --data FOLDER"):
            load_judges(folder)


def test_a_place_that_cannot_be_written_is_named(judges, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ComposerError, match="--out"):
        save_judges(judges, tmp_path / "file")


# --- python -m composer judges -------------------------------------------------------------------


def test_the_command_trains_stores_and_prints_the_judges(data, tmp_path, capsys):
    assert main(["judges", "--data", str(data), "--out", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    stored = {judge.attribute: judge for judge in load_judges(tmp_path)}
    for said in json.loads(out)["judges"]:
        judge = stored[said["attribute"]]
        assert (said["accuracy"], said["labels"]) == (judge.accuracy, list(judge.labels))
        assert f"Judge of {judge}" in err
    assert main(["judges", "--data", str(data), "--out", str(tmp_path / "one"), "--only", "topic"]) == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["topic.safetensors"]
    assert "Judge of topic: 100.0% right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "cure"),
    [(["--data", "no-such"], "--data is not a folder"), (["--only", "mood"], "sentiment, topic")],
)
def test_bad_input_names_the_cure(data, tmp_path, capsys, more, cure):
    argv = ["judges", "--data", str(data), "--out", str(tmp_path), *more]
    assert main(argv) == 2
    assert cure in capsys.readouterr().err
