"""Bases whose modules transformers renamed: adapters of before load as PEFT maps them."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BloomConfig,
    Gemma3Config,
    LlavaConfig,
    Mistral3Config,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    Qwen2_5_VLConfig,
    Qwen2MoeConfig,
    Qwen2VLConfig,
    Qwen3Config,
)

from composer.adapters.fit.mapping import base_names
from composer.model.gated_model import GatedModel
from tests.tools.adapters import peft_adapter
from tests.tools.oracle import by_peft, by_us, reader, rename, same

TEXT = dict(vocab_size=64, num_hidden_layers=2, hidden_size=16, intermediate_size=24)
TEXT |= dict(num_attention_heads=2, num_key_value_heads=1, head_dim=8)
EYE = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
EYE |= dict(image_size=28, patch_size=14)
TURNS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}


def gemma3():
    return Gemma3Config(text_config=TEXT, vision_config=EYE, mm_tokens_per_image=4)


def llava():
    text, eye = {**TEXT, "model_type": "llama"}, {**EYE, "model_type": "clip_vision_model"}
    return LlavaConfig(text_config=text, vision_config=eye)


def mistral3():
    text, eye = {**TEXT, "model_type": "mistral"}, {**EYE, "model_type": "pixtral", "head_dim": 8}
    return Mistral3Config(text_config=text, vision_config=eye)


def qwen2_vl(kind=Qwen2VLConfig):
    eye = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 2}
    return kind(text_config={**TEXT, "rope_parameters": TURNS}, vision_config=eye)


BASES = {
    "Gemma 3": (gemma3, r"^(base_model\.model\.)model\.language_model\.", r"\1language_model.model."),
    "LLaVA": (llava, r"^(base_model\.model\.)model\.language_model\.", r"\1language_model.model."),
    "Mistral 3": (mistral3, r"^(base_model\.model\.)model\.language_model\.", r"\1language_model.model."),
    "Qwen2-VL": (qwen2_vl, r"^(base_model\.model\.model\.)language_model\.", r"\1"),
    "Qwen2.5-VL": (
        lambda: qwen2_vl(Qwen2_5_VLConfig),
        r"^(base_model\.model\.model\.)language_model\.",
        r"\1",
    ),
}


def model(make) -> torch.nn.Module:
    torch.manual_seed(0)
    try:
        return AutoModelForCausalLM.from_config(make()).eval()
    except ValueError:  # no causal language model of its own
        return AutoModelForImageTextToText.from_config(make()).eval()


@pytest.mark.parametrize(("make", "now", "before"), BASES.values(), ids=BASES)
@pytest.mark.parametrize("names", ["of now", "of before", "of before, without the prefix"])
def test_the_names_of_before_are_mapped_as_by_peft(make, now, before, names, tmp_path):
    text = r".*language_model.*\.(?:q_proj|up_proj)"
    folder = peft_adapter(tmp_path / "joy", LoraConfig(r=4, target_modules=text), model(make))
    if names != "of now":
        rename(folder, now, before)
    if "without" in names:
        rename(folder, r"^base_model\.model\.", "")
    reference = by_peft(model(make), folder)
    report, ours = by_us(reader(model(make)), folder)
    assert report.ok == (reference is not None and not reference[1]), report
    if report.ok:
        assert len(ours) == 4 and same(ours, reference[0])
    else:  # what PEFT does not map is told as any other strange name
        assert "rename" in report.reasons[0]
    assert report.ok or make().model_type.startswith("qwen"), "the oracle maps the others"


WIDE = {"hidden_size": 16, "num_attention_heads": 2, "vocab_size": 64, "pad_token_id": 0}
BLOOM = {"n_layer": 2, "n_head": 2, "hidden_size": 16, "vocab_size": 64}
OPT = WIDE | {"num_hidden_layers": 2, "ffn_dim": 24, "word_embed_proj_dim": 16}
EXPERTS = {"num_experts": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}
FAMILIES = {
    "Mixtral's attention": (lambda: MixtralConfig(**TEXT, num_local_experts=2), ["q_proj", "v_proj"]),
    "Qwen2-MoE's shared expert": (lambda: Qwen2MoeConfig(**TEXT, **EXPERTS), ["shared_expert.up_proj"]),
    "Phi-3": (lambda: Phi3Config(**TEXT, pad_token_id=0), ["qkv_proj", "gate_up_proj"]),
    "Qwen3": (lambda: Qwen3Config(**TEXT), "all-linear"),
    "OPT": (lambda: OPTConfig(**OPT), ["q_proj", "fc1"]),
    "Bloom": (lambda: BloomConfig(**BLOOM), ["query_key_value"]),
    "Gemma 3 as deep as its eye": (
        lambda: Gemma3Config(
            text_config=TEXT, vision_config=EYE | {"num_hidden_layers": 2}, mm_tokens_per_image=4
        ),
        r".*language_model.*\.v_proj",
    ),
}


@pytest.mark.parametrize(("make", "targets"), FAMILIES.values(), ids=FAMILIES)
def test_adapters_of_many_families_load_as_by_peft(make, targets, tmp_path):
    folder = peft_adapter(tmp_path / "joy", LoraConfig(r=4, target_modules=targets), model(make))
    reference, unused = by_peft(model(make), folder)
    report, ours = by_us(reader(model(make)), folder)
    assert report.ok and not unused and len(ours) >= 2, report
    assert same(ours, reference)


def test_matrices_of_an_image_encoder_do_nothing_to_a_text_and_are_left_there(tmp_path):
    base = model(gemma3)
    both = LoraConfig(r=4, target_modules=["q_proj"])
    folder = peft_adapter(tmp_path / "joy", both, base)
    report, ours = by_us(reader(model(gemma3)), folder)
    assert report.ok and ours.keys() == report.ranks.keys()
    assert all("language_model" in path for path in ours)
    reference, unused = by_peft(model(gemma3), folder)
    assert not unused and any("vision" in path for path in reference)
    assert same(ours, {path: delta for path, delta in reference.items() if "vision" not in path})
    # And that is all that PEFT's own text needs.
    ids = torch.tensor([[3, 5, 7, 9]])
    whole = PeftModel.from_pretrained(model(gemma3), folder).eval()
    with torch.no_grad():
        logits = whole(input_ids=ids).logits
        for name, parameter in whole.named_parameters():
            if "vision" in name and "lora_B" in name:
                parameter.zero_()
        torch.testing.assert_close(whole(input_ids=ids).logits, logits)


def test_an_adapter_of_the_image_encoder_alone_is_refused(tmp_path):
    eye = LoraConfig(r=4, target_modules=r".*vision_tower.*q_proj")
    folder = peft_adapter(tmp_path / "joy", eye, model(gemma3))
    assert "no text passes through" in by_us(reader(model(gemma3)), folder)[0].reasons[0]


def test_names_from_anywhere_are_no_fault_of_the_mapping():
    renamed = base_names(model(gemma3)).renamed
    odd = [
        "",
        ".",
        "..lora_A.weight",
        "lora_A",
        "\ud800.lora_A.weight",
        "x" * 10_000,
        "a.lora_A.weight\n",
        "(",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = renamed(odd)
    assert set(found) <= set(odd) and all(isinstance(name, str) for name in found.values())


def test_a_base_without_renamed_modules_calls_no_library():
    from tests.tools import tiny

    names = base_names(tiny.model("llama"))
    assert names.renamed(["base_model.model.language_model.model.layers.0.q.lora_A.weight"]) == {}
    assert not names.aside


def test_the_gate_does_not_change_what_a_base_knows():
    made = model(gemma3)
    before = base_names(made)
    GatedModel(made)
    assert base_names(made).aside == before.aside
    assert any(re.search("vision", path) for path in before.aside)
