"""The section gpu, whole, on the CPU with a tiny shape: its steps, its time, and a run that is cut off."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace

import pytest

from benchmarks.gpu import arms as gpu_arms
from benchmarks.gpu import measure as gpu
from benchmarks.gpu.progress import PARTIAL, RESERVE, Progress
from benchmarks.gpu.shape import Shape
from benchmarks.report import as_markdown
from benchmarks.targets import judge
from composer.adapters.catalog import load_catalog
from composer.core.errors import ComposerError
from tests.benchmarks.conftest import TOY

SHAPE = Shape(2, 64, 96, 4, 2, 300)
PLAN = replace(TOY, users=(1, 32), user_rounds=1, loaded=(12, 60))
SMALL = {"floor", "bare", "ours 0", "ours 3", "step"}
WHOLE = SMALL | {"rows 4", "fusion 3", "users", "long prompts", "loaded 12", "loaded 60"}
WHOLE |= {f"{who} {count}" for who in ("ours", "peft") for count in (0, 1, 3, 8)}


def measured(catalog, folder, **options) -> dict:
    small = load_catalog(catalog).base()
    given = {
        "machine": {"load": 1.0},
        "small": small,
        "shape": SHAPE,
        "rank": 4,
        "device": "cpu",
        "minutes": 60,
    }
    return gpu.measure(PLAN, folder, **{**given, **options})


@pytest.fixture(scope="module")
def section(toy_catalog, tmp_path_factory) -> dict:
    return measured(toy_catalog, tmp_path_factory.mktemp("gpu"))


def test_every_step_of_every_format_is_measured(section):
    assert section["failed"] == {} and section["unfinished"] == []
    assert {name: set(figures) for name, figures in section["formats"].items()} == {
        "nf4": WHOLE,
        "bf16": WHOLE,
        "small": SMALL,
    }
    for figures in section["formats"].values():
        for name, taken in figures.items():
            if name.partition(" ")[0] in ("bare", "ours", "peft", "fusion", "rows", "loaded"):
                assert 0 < taken["p10"] <= taken["median"] <= taken["p90"], name
                assert taken["cpu"] > 0 and taken["memory"] > 0


def test_the_floor_is_the_bytes_of_the_format(section):
    bf16, nf4 = (section["formats"][name]["floor"] for name in ("bf16", "nf4"))
    decoder = SHAPE.num_hidden_layers * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    assert bf16["bytes"] == 2 * (decoder + 300 * 64)
    assert 2 * 300 * 64 + decoder / 2 < nf4["bytes"] < 2 * 300 * 64 + 0.6 * decoder
    assert bf16["seconds"] == bf16["bytes"] / bf16["bandwidth"]


def test_a_step_s_own_table_adds_up(section):
    step = section["formats"]["bf16"]["step"]
    listed = [*step["kernels"].values(), step["others"]]
    assert sum(kernel["ms"] for kernel in listed) == pytest.approx(step["busy"])
    assert sum(kernel["launches"] for kernel in listed) == pytest.approx(step["launches"])
    assert step["launches_a_layer"] == step["launches"] / SHAPE.num_hidden_layers
    assert 0 <= step["idle"] < 1


def test_every_bar_of_a_gpu_is_read_from_it_and_it_is_in_the_report(section):
    results = {"cuda": {"device": "cuda", "gpu": section}}
    verdicts = [verdict for verdict in judge(results) if verdict.bar.device == "GPU"]
    assert len(verdicts) > 15
    assert [verdict.bar.claim for verdict in verdicts if verdict.measured is None] == []
    machine = {
        "cpu": "A CPU",
        "cores": 1,
        "logical_cores": 1,
        "threads": 1,
        "ram": 1,
        "load": 0,
        "system": "x",
    }
    machine |= {"gpu": None, "python": "3", "packages": {}}
    text = as_markdown({"cuda": results["cuda"] | {"machine": machine, "command": "x"}})
    assert "| ours, 60 adapters loaded, 3 in use |" in text
    assert "nf4 (bitsandbytes), on CPU; adapters of rank 4" in text and "tiny/llama, float32" in text


def test_only_one_engine_lives_at_a_time(toy_catalog, tmp_path, monkeypatch):
    """A second copy of an 8B base would not fit beside the first one's."""
    alive: weakref.WeakSet = weakref.WeakSet()
    most = []

    class Counted(gpu_arms.Engine):
        def __init__(self, *args, **options):
            most.append(len(alive))
            super().__init__(*args, **options)
            alive.add(self)

    monkeypatch.setattr(gpu_arms, "Engine", Counted)
    assert measured(toy_catalog, tmp_path, small=None)["failed"] == {}
    assert len(most) >= 12 and set(most) == {0}


def test_a_run_that_is_cut_off_keeps_what_it_had_and_the_next_goes_on(toy_catalog, tmp_path, monkeypatch):
    done = []
    step = Progress.step

    def cut(self, group, name, work):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append((group, name))
        step(self, group, name, work)

    monkeypatch.setattr(Progress, "step", cut)
    with pytest.raises(KeyboardInterrupt):
        measured(toy_catalog, tmp_path / "a", out=tmp_path)
    kept = json.loads((tmp_path / PARTIAL).read_text("utf-8"))["figures"]
    assert [(group, name) for group, steps in kept.items() for name in steps] == done

    monkeypatch.setattr(Progress, "step", step)
    whole = measured(toy_catalog, tmp_path / "b", out=tmp_path)
    for group, steps in kept.items():
        for name, figures in steps.items():
            assert whole["formats"][group][name] == figures, "it was measured a second time"
    assert set(whole["formats"]["bf16"]) == WHOLE
    assert not (tmp_path / PARTIAL).exists(), "the next run measures anew"


def test_no_step_begins_when_the_time_is_over(toy_catalog, tmp_path):
    made = measured(toy_catalog, tmp_path, minutes=RESERVE / 60)
    assert made["formats"] == {} and "nf4: floor" in made["unfinished"]
    assert len(made["unfinished"]) == 2 * len(WHOLE) + len(SMALL)
    assert not (tmp_path / "base").exists(), "16 GB were written for nothing"


def test_figures_of_another_setting_are_dropped(tmp_path):
    first = Progress(tmp_path, {"rank": 8}, 7)
    first.step("nf4", "bare", lambda: {"median": 1.0})
    assert Progress(tmp_path, {"rank": 8}, 7).has("nf4", "bare")
    assert not Progress(tmp_path, {"rank": 16}, 7).has("nf4", "bare")


def test_a_step_that_fails_is_named_and_the_next_ones_are_measured(tmp_path):
    progress = Progress(tmp_path, {}, 7)

    def fails() -> dict:
        raise RuntimeError("CUDA out of memory in /a/private/place")

    progress.step("bf16", "ours 8", fails)
    progress.step("bf16", "ours 0", lambda: {"median": 1.0})
    progress.finish()
    assert progress.failed == {"bf16: ours 8": "RuntimeError"} and progress.has("bf16", "ours 0")
    assert (tmp_path / PARTIAL).exists(), "another run tries it again"


@pytest.mark.parametrize("broken", [("nf4",), ("none", "nf4")])
def test_a_format_that_does_not_load_does_not_cost_the_others_figures(
    broken, toy_catalog, tmp_path, monkeypatch, capsys
):
    load = gpu_arms.load_base

    def loads(spec, device):
        if spec.quantization in broken:
            raise ComposerError("It could not be loaded.")
        return load(spec, device)

    monkeypatch.setattr(gpu_arms, "load_base", loads)
    monkeypatch.setattr(gpu_arms.Arms, "_steps", lambda self: iter([("floor", self._floor)]))
    if "none" in broken:
        with pytest.raises(ComposerError, match="could not be loaded"):
            measured(toy_catalog, tmp_path, small=None)
    else:
        made = measured(toy_catalog, tmp_path, small=None)
        assert set(made["formats"]) == {"bf16"} and made["failed"] == {"nf4": "It could not be loaded."}
    assert "nf4 is left out: It could not be loaded." in capsys.readouterr().err
