"""Files that leave the page: the exported mix, and the text with its settings, contributions and figures."""

from __future__ import annotations

import json
import tempfile
import zipfile
from contextlib import closing
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from peft import PeftModel

from composer import Composition
from composer.ui.page import Page
from composer.ui.runners.batched import BatchedRunner
from composer.ui.runners.zero_gpu import ZeroGpuRunner
from composer.ui.settings import Settings
from composer.ui.visitors import Visitor
from tests.tools import tiny
from tests.tools.handlers import Controls, everything


@pytest.fixture(params=["batched", "zero_gpu"])
def page(request, tmp_path):
    folders = {name: tiny.adapter(tmp_path / name, "llama", k, r=2) for k, name in enumerate("ab")}
    engine = tiny.engine("llama", folders)
    engine.end_tokens = frozenset()
    settings = Settings(folders=True, max_added=2)
    runner = (
        BatchedRunner(engine, settings)
        if request.param == "batched"
        else ZeroGpuRunner(engine, lambda work: work)
    )
    with closing(runner):
        yield Page(runner, settings)


def sliders(page, value):
    return [value if slot.key.startswith("one-") else 0.0 for slot in page.context.slots]


def exported(page, folder, rank=0, **controls):
    """The files of the exported mix, unpacked while they are there."""

    async def collected():
        told = ""
        async for files, message in page.exporting.export(Controls(page, **controls), rank):
            told = message
            if files.get("value"):
                zipfile.ZipFile(files["value"][0]).extractall(folder)
        return told

    return everything(collected())


def test_peft_reads_the_export_and_gives_the_same_logits(page, tmp_path):
    before = set(Path(tempfile.gettempdir()).glob("adapter-composer-*"))
    message = exported(page, tmp_path / "out", sliders=sliders(page, 0.75), prompt="Who")
    assert "PEFT adapter for tiny/llama" in message
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "recipe.yaml",
    }
    engine = page.runner.engine
    ids = torch.tensor([engine.base.encode("Who")])
    peft = PeftModel.from_pretrained(tiny.model("llama"), tmp_path / "out")
    with torch.no_grad():
        theirs = peft(ids).logits[0, -1].numpy()
    ours = engine.next_token_logits("Who", Composition({"a": 0.75, "b": 0.75}))
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    assert set(Path(tempfile.gettempdir()).glob("adapter-composer-*")) == before, "its folder was left behind"


def test_a_cut_says_what_it_keeps(page, tmp_path):
    message = exported(page, tmp_path / "out", 8, sliders=sliders(page, 1.0))
    assert "Rank 8 keeps 100.0% of its squared norm." in message


def test_a_visitors_own_adapter_is_named_in_the_recipe(page, tmp_path):
    visitor = Visitor()
    _, own = page.runner.added.add(str(tiny.adapter(tmp_path / "mine", "llama", 9, r=2)))
    visitor.add(own, 2)
    values = [1.0 if slot.spare == 0 else 0.0 for slot in page.context.slots]
    exported(page, tmp_path / "out", visitor=visitor, sliders=values)
    assert "mine: {sha256:" in (tmp_path / "out/recipe.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    ("rank", "controls", "words"),
    [
        (7, {}, "from the list"),
        (None, {}, "from the list"),
        (0, {"method": "arrow"}, "no single adapter"),
        (0, {"method": "logits"}, "no single adapter"),
        (0, {"curves": {"curves": {}, "schedule": {"a": [2, 3]}}}, "no single adapter"),
        (0, {"sliders": None}, "adds nothing"),
    ],
)
def test_what_cannot_be_exported_says_why(page, rank, controls, words):
    given = {"sliders": sliders(page, 1.0), **controls}
    if given["sliders"] is None:
        given["sliders"] = sliders(page, 0.0)
    files, message = everything(page.exporting.export(Controls(page, **given), rank))[-1]
    assert words in message and files["visible"] is False


def test_a_text_is_downloaded_with_what_it_takes_to_repeat_it(page):
    controls = Controls(page, sliders=sliders(page, 1.0), sampling={"max_new_tokens": 3, "seed": 5})
    *_, (_, _, _, progress, _, _) = everything(page.generating.generate(controls))
    found = {}

    async def collected():
        async for files, _ in page.exporting.download(progress):
            found.update({Path(path).name: Path(path).read_text("utf-8") for path in files["value"]})

    everything(collected())
    text, own = json.loads(found["text.json"]), json.loads(found["contributions.json"])
    assert text["text"] == progress.text and text["sampling"]["seed"] == 5
    assert text["composition"]["weights"] == {"a": 1, "b": 1} and text["base"] == "tiny/llama"
    assert np.array(own["contribution"]).shape == (3, own["layers"], len(own["adapters"]))
    assert np.array(own["fusion"]["kl"]).shape == (own["layers"], 2)
    assert found["figures.html"].count("<div") >= 2 and "cdn" not in found["figures.html"][:500]


def test_without_a_text_there_is_nothing_to_download(page):
    files, message = everything(page.exporting.download(None))[-1]
    assert "press Generate" in message and files == gr.update(visible=False)
