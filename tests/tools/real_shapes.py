"""The bases that people have, in the sizes that their configs publish and without their weights.

The models are made on torch's meta device, and files of adapters for them are written with PEFT's names and
shapes and no numbers: a file's holes take no disk.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
# The linear layers of a decoder layer, in the order of its modules.
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class RealShape:
    """A base as its repository on the Hub describes it."""

    id: str
    # What its config.json says.
    config: Mapping[str, Any]
    # How many its repository counts.
    parameters: int
    # Where its decoder layers are.
    layers: str = field(default="model.layers")


def _sizes(width: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
    }


def _llama3(tied: bool, factor: float, **sizes: int) -> dict[str, Any]:
    rope = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return {
        "model_type": "llama",
        **sizes,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": {**rope, "original_max_position_embeddings": 8192},
        "tie_word_embeddings": tied,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    }


def _qwen(kind: str, tied: bool, **sizes: int) -> dict[str, Any]:
    return {
        "model_type": kind,
        **sizes,
        "max_position_embeddings": 32768 if kind == "qwen2" else 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "sliding_window": None,
        "use_sliding_window": False,
        "tie_word_embeddings": tied,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    }


def _gemma3(window: int, linear: float | None, **sizes: int) -> dict[str, Any]:
    return {
        "model_type": "gemma3_text",
        **sizes,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": linear and {"rope_type": "linear", "factor": linear},
        "sliding_window": window,
        "sliding_window_pattern": 6,
        "max_position_embeddings": 131072 if linear else 32768,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


_EYE = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
    "vision_use_head": False,
}

MISTRAL = {
    "model_type": "mistral",
    **_sizes(4096, 14336, 32, 32, 8, 32000),
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

SHAPES = {
    "mistral-7b": RealShape("mistralai/Mistral-7B-v0.1", MISTRAL, 7_241_732_096),
    "llama-3.1-8b": RealShape(
        "meta-llama/Llama-3.1-8B",
        _llama3(False, 8.0, **_sizes(4096, 14336, 32, 32, 8, 128256)),
        8_030_261_248,
    ),
    "llama-3.2-1b": RealShape(
        "meta-llama/Llama-3.2-1B",
        _llama3(True, 32.0, **_sizes(2048, 8192, 16, 32, 8, 128256), head_dim=64),
        1_235_814_400,
    ),
    "llama-3.2-3b": RealShape(
        "meta-llama/Llama-3.2-3B",
        _llama3(True, 32.0, **_sizes(3072, 8192, 28, 24, 8, 128256), head_dim=128),
        3_212_749_824,
    ),
    "qwen2.5-0.5b": RealShape(
        "Qwen/Qwen2.5-0.5B", _qwen("qwen2", True, **_sizes(896, 4864, 24, 14, 2, 151936)), 494_032_768
    ),
    "qwen2.5-7b": RealShape(
        "Qwen/Qwen2.5-7B", _qwen("qwen2", False, **_sizes(3584, 18944, 28, 28, 4, 152064)), 7_615_616_512
    ),
    "qwen3-0.6b": RealShape(
        "Qwen/Qwen3-0.6B-Base",
        _qwen("qwen3", True, **_sizes(1024, 3072, 28, 16, 8, 151936), head_dim=128),
        596_049_920,
    ),
    "qwen3-4b": RealShape(
        "Qwen/Qwen3-4B-Base",
        _qwen("qwen3", True, **_sizes(2560, 9728, 36, 32, 8, 151936), head_dim=128),
        4_022_468_096,
    ),
    "qwen3-8b": RealShape(
        "Qwen/Qwen3-8B-Base",
        _qwen("qwen3", False, **_sizes(4096, 12288, 36, 32, 8, 151936), head_dim=128),
        8_190_735_360,
    ),
    "gemma-3-1b": RealShape(
        "google/gemma-3-1b-pt", _gemma3(512, None, **_sizes(1152, 6912, 26, 4, 1, 262144)), 999_885_952
    ),
    # With its image encoder, as its repository has it.
    "gemma-3-4b": RealShape(
        "google/gemma-3-4b-pt",
        {
            "model_type": "gemma3",
            "text_config": _gemma3(1024, 8.0, **_sizes(2560, 10240, 34, 8, 4, 262208)),
            "vision_config": _EYE,
            "mm_tokens_per_image": 256,
        },
        4_300_079_472,
        "model.language_model.layers",
    ),
}


def config_of(name: str, **changes: Any) -> PretrainedConfig:
    """The config of one of SHAPES. changes: other values of some keys."""
    raw = {**SHAPES[name].config, **changes}
    return CONFIG_MAPPING[raw["model_type"]].from_dict(raw)


def without_memory(config: PretrainedConfig, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """The modules of a base on the meta device."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def peft_tensors(model: PreTrainedModel, config: LoraConfig) -> dict[str, torch.Tensor]:
    """The tensors that PEFT would save for an adapter of the model, float32 and without numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, config, low_cpu_mem_usage=True)
    tensors = get_peft_model_state_dict(wrapped)
    return {name: tensor.to("meta", torch.float32) for name, tensor in tensors.items()}


def write_adapter(folder: Path, tensors: Mapping[str, torch.Tensor], config: LoraConfig, base: str) -> Path:
    """An adapter's two files. The weights are those of `tensors` in shape and type, and hold zeros."""
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(str(folder))
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        shape = list(tensor.shape)
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


def lora(targets: list[str] | str = "all-linear", r: int = 8, **more: Any) -> LoraConfig:
    return LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets, task_type="CAUSAL_LM", **more)
