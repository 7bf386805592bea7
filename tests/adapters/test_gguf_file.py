"""An adapter as a GGUF file: names, order of rows, scales, and what has no name there."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from composer.adapters.bank import LoraFactors
from composer.adapters.gguf_file import ARCHITECTURES, permute, write_gguf
from composer.core.errors import ComposerError
from tests.tools import tiny

CONFIG = tiny.FAMILIES["llama"]()
HEADS, KV_HEADS, HEAD = 4, 2, 8


def factors(rank: int, inputs: int, outputs: int, scaling: float = 0.5) -> LoraFactors:
    make = torch.Generator().manual_seed(rank)
    return LoraFactors(
        torch.randn(rank, inputs, generator=make), torch.randn(outputs, rank, generator=make), scaling
    )


def read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    reader = gguf.GGUFReader(path)
    return reader.fields, {each.name: np.array(each.data) for each in reader.tensors}


def test_sites_have_llama_cpp_s_names_and_each_its_own_rank(tmp_path):
    o, down = factors(2, 32, 32), factors(3, 48, 32, scaling=2.0)
    adapter = {"model.layers.1.self_attn.o_proj": o, "model.layers.2.mlp.down_proj": down}
    write_gguf(tmp_path / "new" / "mix.gguf", adapter, CONFIG)
    fields, made = read(tmp_path / "new" / "mix.gguf")
    assert fields["general.architecture"].contents() == "llama"
    assert fields["general.type"].contents() == "adapter" and fields["adapter.type"].contents() == "lora"
    # 0: llama.cpp scales by 1, whatever the rank.
    assert fields["adapter.lora.alpha"].contents() == 0.0
    assert set(made) == {
        f"{site}.weight.lora_{half}" for site in ("blk.1.attn_output", "blk.2.ffn_down") for half in "ab"
    }
    for site, own in (("blk.1.attn_output", o), ("blk.2.ffn_down", down)):
        np.testing.assert_array_equal(made[f"{site}.weight.lora_a"], own.A)
        np.testing.assert_array_equal(made[f"{site}.weight.lora_b"], own.B * own.scaling)


def test_rows_of_q_and_k_are_those_of_the_converter_of_llama_cpp(tmp_path):
    """A head's halves become neighbours: rows 0, D/2, 1, D/2 + 1, ... of each head."""
    rows = torch.arange(KV_HEADS * HEAD, dtype=torch.float32)[:, None]  # [O, 1]
    order = [
        head * HEAD + half * HEAD // 2 + i for head in range(KV_HEADS) for i in range(4) for half in (0, 1)
    ]
    assert permute(rows, "model.layers.0.self_attn.k_proj", CONFIG)[:, 0].tolist() == order
    assert permute(rows, "model.layers.0.self_attn.v_proj", CONFIG) is rows
    site, own = "model.layers.0.self_attn.q_proj", factors(2, 32, HEADS * HEAD, scaling=1.0)
    for family, moved in (("llama", True), ("qwen2", False)):
        write_gguf(tmp_path / f"{family}.gguf", {site: own}, tiny.FAMILIES[family]())
        made = read(tmp_path / f"{family}.gguf")[1]["blk.0.attn_q.weight.lora_b"]
        np.testing.assert_array_equal(made, permute(own.B, site, CONFIG) if moved else own.B)
        assert np.array_equal(made, own.B) != moved


def test_what_llama_cpp_has_no_name_for_is_said(tmp_path):
    file, own = tmp_path / "mix.gguf", factors(2, 32, 32)
    with pytest.raises(ComposerError, match="no tensor for the site strange"):
        write_gguf(file, {"strange": own}, CONFIG)
    with pytest.raises(ComposerError, match="no tensor for the site lm_head"):
        write_gguf(file, {"lm_head": own}, tiny.FAMILIES["gemma3"]())
    with pytest.raises(ComposerError, match="adds nothing"):
        write_gguf(file, {}, CONFIG)
    strange = tiny.FAMILIES["llama"]()
    strange.model_type = "strange"
    with pytest.raises(ComposerError, match="kind strange"):
        write_gguf(file, {"model.layers.0.mlp.down_proj": own}, strange)
    assert not file.exists()
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    with pytest.raises(ComposerError, match="cannot be written there"):
        write_gguf(blocked / "mix.gguf", {"model.layers.0.mlp.down_proj": factors(2, 48, 32)}, CONFIG)


@pytest.mark.parametrize("family", [*tiny.FAMILIES, *tiny.VARIANTS])
def test_every_family_here_has_names_for_its_linear_layers(family, tmp_path):
    model = tiny.model(family)
    linear = {
        path: factors(1, module.in_features, module.out_features)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and path != "lm_head" and "embed" not in path
    }
    write_gguf(tmp_path / "mix.gguf", linear, model.config)
    assert len(read(tmp_path / "mix.gguf")[1]) == 2 * len(linear) > 0
    assert model.config.model_type in ARCHITECTURES
