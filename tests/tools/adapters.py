"""Adapters for tests: real ones saved by PEFT on a tiny random base, and hand-made files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save
from transformers import LlamaConfig, LlamaForCausalLM

TINY = LlamaConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(TINY).eval()


def linear_sites(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    """Path -> (out, in) of every linear layer inside the decoder layers."""
    return {
        path: (module.out_features, module.in_features)
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in f".{path}"
    }


def peft_adapter(folder: Path, config: LoraConfig, model: torch.nn.Module | None = None) -> Path:
    """Saves an untrained adapter, with B random instead of zero, as PEFT writes it."""
    torch.manual_seed(1)
    peft = get_peft_model(model or tiny_llama(), config)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    peft.save_pretrained(folder)
    return folder


CONFIG: Mapping[str, object] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "tiny/llama",
    "bias": "none",
    "lora_alpha": 8,
    "r": 4,
    "target_modules": ["q_proj"],
    "task_type": "CAUSAL_LM",
}

SITE = "base_model.model.model.layers.0.self_attn.q_proj"


def lora_tensors(rank: int = 4, site: str = SITE, out: int = 16, inner: int = 16) -> dict[str, np.ndarray]:
    return {
        f"{site}.lora_A.weight": np.ones((rank, inner), np.float32),
        f"{site}.lora_B.weight": np.ones((out, rank), np.float32),
    }


def adapter_files(
    config: object = CONFIG, tensors: Mapping[str, np.ndarray] | None = None
) -> dict[str, bytes]:
    """The two files of an adapter as bytes."""
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": save(dict(tensors or lora_tensors())),
    }


def write_adapter(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder
