"""Every cure cures: what a refusal says is done, and then the adapter loads as PEFT loads it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import snapshot_download
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from composer.adapters.files import weights_limit
from composer.adapters.hub import inspect
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from tests.tools import tiny
from tests.tools.adapters import peft_adapter, tiny_llama
from tests.tools.fake_hub import FakeHub
from tests.tools.oracle import CONFIG, WEIGHTS, by_peft, by_us, change_config, reader, same

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
JOY = "me/joy"


@pytest.fixture(scope="module")
def llama():
    return reader(tiny_llama())


@pytest.fixture
def folder(tmp_path):
    return peft_adapter(tmp_path / "joy", LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))


def refusal(llama, folder: Path | str) -> str:
    report, _ = by_us(llama, folder)
    assert not report.ok and len(report.reasons) == 1, report
    return report.reasons[0]


def loads(llama, folder: Path) -> bool:
    report, ours = by_us(llama, folder)
    assert report.ok, report
    reference, unused = by_peft(tiny_llama(), folder)
    return not unused and same(ours, reference)


# --- where the adapter is ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "checkpoints", [("checkpoint-500",), ("checkpoint-500", "checkpoint-1000"), ("a/b c",)]
)
def test_a_folder_above_names_the_one_to_give(checkpoints, llama, folder, tmp_path):
    out = tmp_path / "out"
    for name in checkpoints:
        shutil.copytree(folder, out / name)
    (out / "config.json").write_text("{}")
    said = refusal(llama, out)
    inner = re.search(r"give its folder (.+) instead\.$", said)[1]
    assert inner == checkpoints[-1], "the last checkpoint, by its number"
    assert loads(llama, out / inner)


def test_a_folder_with_very_many_files_is_reported_quickly(tmp_path, llama):
    for number in range(40):
        (tmp_path / "out" / str(number) / "deep" / "er" / "still").mkdir(parents=True)
        for file in range(60):
            (tmp_path / "out" / str(number) / f"{file}.txt").touch()
    assert "is not a PEFT adapter" in refusal(llama, tmp_path / "out")


def files_of(folder: Path, prefix: str = "") -> dict[str, bytes]:
    return {prefix + path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_repository_with_the_adapter_in_a_folder_names_it(hub: FakeHub, llama, folder, tmp_path):
    hub.add(JOY, files_of(folder, "checkpoint-500/"))
    said = refusal(llama, JOY)
    found = re.search(
        r"\(hf download (\S+) --include '(\S+)' --local-dir (\S+)\) and give the folder (\S+)\.$", said
    )
    # What that command does.
    snapshot_download(found[1], allow_patterns=found[2], local_dir=tmp_path / found[3])
    assert loads(llama, tmp_path / found[4])


@pytest.mark.parametrize(
    "name", ["model.safetensors", "adapter.safetensors", "pytorch_lora_weights.safetensors"]
)
def test_weights_under_another_name_are_to_be_renamed(name, llama, folder):
    (folder / WEIGHTS).rename(folder / name)
    found = re.search(r"but (\S+): rename that file to (\S+)\.$", refusal(llama, folder))
    assert found[1] == name
    (folder / found[1]).rename(folder / found[2])
    assert loads(llama, folder)


def test_on_the_hub_that_is_done_in_a_folder_of_one_s_own(hub: FakeHub, llama, folder):
    (folder / WEIGHTS).rename(folder / "lora.safetensors")
    hub.add(JOY, files_of(folder))
    assert "rename that file to adapter_model.safetensors, in a folder of your own." in refusal(llama, JOY)


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin", "adapter_model.pt"])
def test_a_pickle_is_converted_with_peft(name, llama, folder, tmp_path):
    torch.save(load_file(folder / WEIGHTS), folder / name)
    (folder / WEIGHTS).unlink()
    assert "by loading it with PEFT and saving it again" in refusal(llama, folder)
    (folder / name).rename(folder / "adapter_model.bin")
    PeftModel.from_pretrained(tiny_llama(), folder).save_pretrained(tmp_path / "again")
    assert loads(llama, tmp_path / "again")


def test_weights_in_parts_are_saved_as_one(llama, folder):
    tensors = list(load_file(folder / WEIGHTS).items())
    (folder / WEIGHTS).unlink()
    parts = [folder / f"adapter_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, part in enumerate(parts):
        save_file(dict(tensors[i::2]), part)
    assert "save them as one adapter_model.safetensors" in refusal(llama, folder)
    save_file({key: value for part in parts for key, value in load_file(part).items()}, folder / WEIGHTS)
    assert loads(llama, folder)


def test_weights_without_a_config_want_the_one_their_training_wrote(llama, folder, tmp_path):
    shutil.move(folder / CONFIG, tmp_path / CONFIG)
    assert "copy there the one its training wrote" in refusal(llama, folder)
    shutil.move(tmp_path / CONFIG, folder / CONFIG)
    assert loads(llama, folder)


def test_a_whole_model_is_called_one(llama, tmp_path):
    tiny_llama().save_pretrained(tmp_path / "whole")
    assert "so it is a whole model: choose an adapter" in refusal(llama, tmp_path / "whole")


def test_damaged_files_are_good_again_when_copied_again(llama, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "good")
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(500)
    assert "copy or download it again" in refusal(llama, folder)
    shutil.copy(tmp_path / "good" / WEIGHTS, folder)
    (folder / CONFIG).write_text("{")
    assert "save the adapter again" in refusal(llama, folder)
    # Some editors put a mark before the text.
    (folder / CONFIG).write_bytes(b"\xef\xbb\xbf" + (tmp_path / "good" / CONFIG).read_bytes())
    assert by_us(llama, folder)[0].ok


# --- how it was trained --------------------------------------------------------------------------

AGAIN = {
    "DoRA": (dict(use_dora=True), "train it again with use_dora=False", dict(use_dora=False)),
    "saved modules": (
        dict(modules_to_save=["lm_head"]),
        "train it again without modules_to_save",
        dict(modules_to_save=None),
    ),
    "tokens": (
        dict(trainable_token_indices=[1]),
        "train it again without trainable_token_indices",
        dict(trainable_token_indices=None),
    ),
    "bias": (dict(bias="all"), "train it again with bias='none'", dict(bias="none")),
    "lora_bias": (dict(lora_bias=True), "train it again with lora_bias=False", dict(lora_bias=False)),
    "parameters": (
        dict(target_modules=[], target_parameters=["q_proj.weight"]),
        "train it again with target_modules alone",
        dict(target_modules=["q_proj"], target_parameters=None),
    ),
    "embedding": (
        dict(target_modules=["q_proj", "embed_tokens"]),
        "train it again without the embedding among target_modules",
        dict(target_modules=["q_proj"]),
    ),
    "head": (
        dict(target_modules=["q_proj", "lm_head"]),
        "train it again without lm_head among target_modules",
        dict(target_modules=["q_proj"]),
    ),
}


@pytest.mark.parametrize(("options", "said", "cure"), AGAIN.values(), ids=AGAIN)
def test_what_is_trained_again_as_it_says_loads(options, said, cure, llama, tmp_path):
    default_targets = {"r": 4, "target_modules": ["q_proj"]}
    assert said in refusal(llama, peft_adapter(tmp_path / "joy", LoraConfig(**default_targets | options)))
    assert loads(llama, peft_adapter(tmp_path / "again", LoraConfig(**default_targets | options | cure)))


def test_a_classifier_s_cure_is_an_adapter_for_causal_lm(llama, tmp_path):
    options = {"r": 4, "target_modules": ["q_proj"]}
    folder = peft_adapter(tmp_path / "joy", LoraConfig(**options, task_type="FEATURE_EXTRACTION"))
    assert "choose an adapter trained with task_type CAUSAL_LM" in refusal(llama, folder)
    assert loads(llama, peft_adapter(tmp_path / "other", LoraConfig(**options, task_type="CAUSAL_LM")))


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_changed_base_is_converted_away_with_peft(init, llama, tmp_path):
    """As PEFT's documentation does it: the adapter as it was at the start is saved too."""
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=init)
    peft = get_peft_model(tiny_llama(), config)
    peft.peft_config["default"].init_lora_weights = True
    peft.save_pretrained(tmp_path / "start")
    peft.peft_config["default"].init_lora_weights = init
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    peft.save_pretrained(tmp_path / "joy")
    assert "path_initial_model_for_weight_conversion" in refusal(llama, tmp_path / "joy")
    peft.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    assert loads(llama, tmp_path / "plain")


@pytest.mark.parametrize(
    ("wrong", "said", "right"),
    [
        ({"use_marvel": 1}, "or remove it from adapter_config.json", {"use_marvel": ...}),
        ({"r": "4"}, "write the rank that it was trained with", {"r": 4}),
        ({"r": 4.0}, "write the rank that it was trained with", {"r": 4}),
        ({"r": 8}, "correct r or rank_pattern there, and the alpha", {"rank_pattern": {".*": 4}}),
        ({"lora_alpha": "8"}, "set it to the number", {"lora_alpha": 8}),
        ({"lora_alpha": 0}, "above 0 and up to 65536", {"lora_alpha": 65536}),
        ({"use_rslora": "no"}, "correct adapter_config.json", {"use_rslora": False}),
        (
            {"target_modules": ["up_proj"]},
            "correct target_modules",
            {"target_modules": ["up_proj", "q_proj"]},
        ),
        ({"exclude_modules": ["q_proj"]}, "correct exclude_modules", {"exclude_modules": None}),
        ({"layers_to_transform": [0]}, "correct layers_to_transform", {"layers_to_transform": [0, 1]}),
        ({"target_modules": 3}, "write the names of the layers", {"target_modules": ["q_proj", "up_proj"]}),
        ({"layers_pattern": "layers"}, "add the layers' numbers", {"layers_to_transform": [0, 1]}),
        ({"layers_pattern": "layers"}, "remove it from adapter_config.json", {"layers_pattern": None}),
        (
            {"target_modules": ".*(q|up)_proj", "layers_to_transform": [0, 1]},
            "or write target_modules as a list",
            {"target_modules": ["q_proj", "up_proj"]},
        ),
        (
            {"target_modules": r"(?:.+?){9}\d\d"},
            "write plain module names instead",
            {"target_modules": ["q_proj", "up_proj"]},
        ),
        ({"rank_pattern": {"(q": 4}}, "correct it in adapter_config.json", {"rank_pattern": {"(q_proj)": 4}}),
        ({"alpha_pattern": ["q"]}, "correct adapter_config.json", {"alpha_pattern": {"q_proj": 4}}),
    ],
    ids=str,
)
def test_what_is_put_right_in_the_config_as_it_says_loads(wrong, said, right, llama, folder):
    assert said in refusal(llama, change_config(folder, **wrong))
    assert loads(llama, change_config(folder, **right))


def test_a_file_with_two_adapters_is_saved_as_one(llama, folder):
    tensors = load_file(folder / WEIGHTS)
    twice = {
        **tensors,
        **{key.replace(".weight", ".default.weight"): value for key, value in tensors.items()},
    }
    save_file({key: value.clone() for key, value in twice.items()}, folder / WEIGHTS)
    assert "save one adapter alone" in refusal(llama, folder)
    save_file(tensors, folder / WEIGHTS)
    assert loads(llama, folder)


def test_numbers_that_are_not_finite_and_then_are(llama, folder):
    tensors = load_file(folder / WEIGHTS)
    key = next(iter(tensors))
    save_file({**tensors, key: torch.full_like(tensors[key], torch.nan)}, folder / WEIGHTS)
    assert "train it again with a lower rate" in refusal(llama, folder)
    save_file(tensors, folder / WEIGHTS)
    assert loads(llama, folder)


# --- how large it may be -------------------------------------------------------------------------


def heavy(folder: Path, megabytes: float) -> Path:
    """An adapter that weighs so much on paper: a file with a hole, which costs no disk."""
    rank = int(megabytes * 1e6 / 4 / 32)
    shape = {"dtype": "F32", "shape": [rank, 16], "data_offsets": [0, rank * 64]}
    other = {"dtype": "F32", "shape": [16, rank], "data_offsets": [rank * 64, rank * 128]}
    site = "base_model.model.model.layers.0.self_attn.q_proj"
    header = json.dumps({f"{site}.lora_A.weight": shape, f"{site}.lora_B.weight": other}).encode()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / WEIGHTS).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + rank * 128)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def test_a_heavy_adapter_names_the_setting_that_lets_it_in(tmp_path, monkeypatch):
    monkeypatch.delenv("COMPOSER_MAX_ADAPTER_MB", raising=False)
    folder = heavy(tmp_path / "joy", 310)
    with pytest.raises(ComposerError) as refused:
        inspect(str(folder))
    name, value = re.search(
        r"the limit is 300 MB: .* set (\w+) to (\d+) or more\.$", str(refused.value)
    ).groups()
    monkeypatch.setenv(name, value)
    assert inspect(str(folder)).bytes > 300e6


@pytest.fixture
def tiny_base(monkeypatch):
    """Engine.from_catalog without a base on disk."""
    monkeypatch.setattr(
        "composer.engine.engine.load_base",
        lambda spec, device: tiny.Base(spec, "memory", "folder", tiny.model("llama"), tiny.tokenizer()),
    )


def written(tmp_path: Path, source: str) -> Path:
    path = tmp_path / "adapters.yaml"
    path.write_text(f"default: t\nbases: {{t: {{id: me/t, adapters: {{joy: {{source: '{source}'}}}}}}}}\n")
    return path


def test_the_setting_holds_for_what_is_added_and_not_for_the_catalog_s_own(tiny_base, tmp_path, monkeypatch):
    folder = tiny.adapter(tmp_path / "joy", "llama", 1, r=300)
    assert (folder / WEIGHTS).stat().st_size > 1e6
    monkeypatch.setenv("COMPOSER_MAX_ADAPTER_MB", "1")
    engine = Engine.from_catalog(written(tmp_path, "joy"))
    assert engine.names == ("joy",), engine.reports
    for report in (engine.check(str(folder)), engine.add_adapter(str(folder), name="again")):
        assert "set COMPOSER_MAX_ADAPTER_MB to" in report.reasons[0]
    assert (
        Engine.from_catalog(written(tmp_path, "joy"), max_adapter_mb=9).add_adapter(str(folder), name="b").ok
    )


def test_the_setting_holds_for_the_hub(hub: FakeHub, tiny_base, tmp_path, monkeypatch):
    hub.add(JOY, files_of(tiny.adapter(tmp_path / "joy", "llama", 1, r=300)))
    monkeypatch.setenv("COMPOSER_MAX_ADAPTER_MB", "1")
    engine = Engine.from_catalog(written(tmp_path, JOY))
    assert engine.names == () and "set COMPOSER_MAX_ADAPTER_MB to" in engine.reports[0].reasons[0]
    value = re.search(r"to (\d+) or more", engine.reports[0].reasons[0])[1]
    monkeypatch.setenv("COMPOSER_MAX_ADAPTER_MB", value)
    assert Engine.from_catalog(written(tmp_path, JOY)).names == ("joy",)


@pytest.mark.parametrize("text", ["0", "nan", "-3", "many", "1e9", "300 MB"])
def test_a_setting_that_is_no_number_is_reported_before_the_base_is_loaded(text, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPOSER_MAX_ADAPTER_MB", text)
    monkeypatch.setattr("composer.engine.engine.load_base", None)
    with pytest.raises(ComposerError, match="COMPOSER_MAX_ADAPTER_MB must be a number between 1 and 1000000"):
        Engine.from_catalog(written(tmp_path, JOY))
    assert weights_limit(env={}) == 300_000_000


# --- any rank ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Adapters of ranks 300 and 3 on a base that is 32 wide."""
    folder = tmp_path_factory.mktemp("wide")
    ranks = {"wide": 300, "narrow": 3, "other": 300}
    folders = {
        name: tiny.adapter(folder / name, "llama", seed, r=rank, lora_alpha=rank / 40)
        for seed, (name, rank) in enumerate(ranks.items())
    }
    return folders, tiny.engine("llama", folders)


def test_rank_300_is_as_by_peft(wide):
    folders, engine = wide
    ids = torch.tensor([engine.base.tokenizer("Who are you?")["input_ids"]])
    oracle = PeftModel.from_pretrained(tiny.model("llama"), folders["wide"], "wide").eval()
    with torch.no_grad():
        reference = oracle(input_ids=ids).logits[0, -1].numpy()
    ours = engine.next_token_logits("Who are you?", Composition({"wide": 1}))
    np.testing.assert_allclose(ours, reference, rtol=1e-3, atol=1e-3)
    step = next(engine.generate("Who are you?", Composition({"wide": 1, "narrow": 1})))
    assert np.isfinite(step.contribution).all()


@pytest.mark.parametrize("method", ["cat", "svd", "linear", "delta-average", "ties", "pico"])
@pytest.mark.parametrize("rank", [None, 300])
def test_rank_300_can_be_merged_and_asked_for(method, rank, wide):
    weights = {"wide": 0.5, "other": 0.5} | ({"narrow": 1} if method not in ("linear", "pico") else {})
    engine = wide[1]
    merged = engine.next_token_logits("Who?", Composition(weights, method, rank=rank))
    assert np.isfinite(merged).all()
    if method in ("cat", "svd"):  # 32 wide, so that rank 300 is the whole sum
        added = engine.next_token_logits("Who?", Composition(weights))
        np.testing.assert_allclose(merged, added, rtol=2e-3, atol=2e-3)
