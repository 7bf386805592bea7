"""Writes an adapter as llama.cpp reads it: a GGUF file with the base's tensor names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import PretrainedConfig

from composer.adapters.bank import Adapter
from composer.core.errors import ComposerError, quote_name

# transformers' model_type -> GGUF's name of the family.
ARCHITECTURES: Mapping[str, gguf.MODEL_ARCH] = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
}
# Families whose q and k rows GGUF files hold in another order than Hugging Face's.
PERMUTED = (gguf.MODEL_ARCH.LLAMA,)


def write_gguf(file: Path, adapter: Adapter, config: PretrainedConfig) -> None:
    """Write an adapter in float32 with scaling 1 at every site: B carries it. Ranks may differ between sites.

    config: of the base that it is for. Raises ComposerError for a family or a site that llama.cpp has no name
    for, for an adapter without sites, and where nothing can be written.
    """
    if not adapter:
        raise ComposerError("The mix adds nothing at any layer, so there is no adapter to write.")
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise ComposerError(
            f"A base of the kind {quote_name(config.model_type)} has no GGUF names here; export without them."
        )
    tensors = _tensors(adapter, architecture, config)
    try:
        _write(file, gguf.MODEL_ARCH_NAMES[architecture], tensors)
    except OSError as fault:
        raise ComposerError("The GGUF file cannot be written there; choose another folder.") from fault


def _tensors(
    adapter: Adapter, architecture: gguf.MODEL_ARCH, config: PretrainedConfig
) -> dict[str, torch.Tensor]:
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tensors: dict[str, torch.Tensor] = {}
    for path, own in adapter.items():
        name = names.get_name(path)
        # A shared matrix is a tensor of the embedding's name, which is not a product there.
        if name is None or (path == "lm_head" and config.tie_word_embeddings):
            raise ComposerError(f"llama.cpp has no tensor for the site {quote_name(path)}.")
        B = own.B.detach().float().cpu() * own.scaling  # [O, R]
        if architecture in PERMUTED:
            B = permute(B, path, config)
        tensors[f"{name}.weight.lora_a"] = own.A.detach().float().cpu()  # [R, K]
        tensors[f"{name}.weight.lora_b"] = B
    return tensors


def permute(rows: torch.Tensor, path: str, config: PretrainedConfig) -> torch.Tensor:
    """Rows of a q or k projection in the order of GGUF's Llama; those of other sites as they are.

    Hugging Face rotates the two halves of a head against each other, GGUF's Llama each pair of neighbours.
    rows: [O, R].
    """
    heads: Any = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = heads.get(path.rpartition(".")[2])
    if count is None:
        return rows
    halves = rows.unflatten(0, (count, 2, -1))  # [H, 2, D/2, R]
    return halves.transpose(1, 2).reshape(rows.shape)


def _write(file: Path, architecture: str, tensors: Mapping[str, torch.Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(file, architecture, use_temp_file=False)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # llama.cpp scales by alpha over a tensor's rank, and by 1 where alpha is 0.
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.contiguous().numpy())
    finish(writer)


def finish(writer: gguf.GGUFWriter) -> None:
    """Write all that was added, and close the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
