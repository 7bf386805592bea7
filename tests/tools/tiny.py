"""Tiny random models of some families, a byte tokenizer, and random PEFT adapters for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import yaml
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from composer.core.catalog_types import Attribute, BaseSpec, Catalog
from composer.engine.engine import Engine
from composer.model.loading import Base

COMMON = dict(
    vocab_size=260, num_hidden_layers=3, hidden_size=32, intermediate_size=48, num_attention_heads=4
)
COMMON |= dict(bos_token_id=257, eos_token_id=258, pad_token_id=258, max_position_embeddings=256)

MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
SLIDING = dict(num_key_value_heads=2, head_dim=16, sliding_window=8)

FAMILIES = {
    "llama": lambda: LlamaConfig(**COMMON, num_key_value_heads=2),
    "qwen2": lambda: Qwen2Config(**COMMON, num_key_value_heads=2),
    "gemma3": lambda: Gemma3TextConfig(
        **COMMON | SLIDING | dict(num_key_value_heads=1), layer_types=MIXED, query_pre_attn_scalar=24
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**COMMON),
}
# Those that differ from one of the above in little.
VARIANTS = {
    "mistral": lambda: MistralConfig(**COMMON | SLIDING),
    "qwen3": lambda: Qwen3Config(**COMMON | SLIDING, use_sliding_window=True, layer_types=MIXED),
}

# Linear names by family: (attention input, attention output, one of the MLP).
NAMES = {
    "llama": ("q_proj", "o_proj", "down_proj"),
    "qwen2": ("v_proj", "o_proj", "gate_proj"),
    "gemma3": ("k_proj", "o_proj", "up_proj"),
    "gpt_neox": ("query_key_value", "dense", "dense_4h_to_h"),
    "mistral": ("q_proj", "o_proj", "up_proj"),
    "qwen3": ("k_proj", "o_proj", "down_proj"),
}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: nothing to train, every text round-trips."""
    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=raw)
    fast.add_special_tokens({"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"})
    return fast


def random(config, dtype: torch.dtype = torch.float32, seed: int = 0, norms: float = 0.0) -> torch.nn.Module:
    """A random model, the same for the same seed, with weights large enough to matter.

    norms: how far the weights of norms, and biases, deviate from what they are at the start of a training.
    """
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            elif norms:
                parameter.add_(torch.randn_like(parameter), alpha=norms)
    return made.to(dtype).requires_grad_(False)


def model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A random model of one of the families."""
    made = {**FAMILIES, **VARIANTS}[family]()
    return random(made, dtype, seed, norms=0.2 if family in ("gemma3", "mistral", "qwen3") else 0.0)


def adapter(folder: Path, family: str, seed: int, **config) -> Path:
    """Save a random adapter made by PEFT itself; `config` goes to LoraConfig."""
    wrapped = get_peft_model(model(family), LoraConfig(**{"target_modules": "all-linear", **config}))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    wrapped.save_pretrained(folder)
    return folder


def three_unlike(folder: Path, family: str) -> dict[str, Path]:
    """Adapters that differ in rank, targets, alpha, rsLoRA and patterns."""
    first, second, third = NAMES[family]
    return {
        "plain": adapter(folder / "plain", family, 1, r=4, lora_alpha=8, target_modules=[first, third]),
        "rslora": adapter(folder / "rslora", family, 2, r=8, lora_alpha=3, use_rslora=True),
        "patterned": adapter(
            folder / "patterned",
            family,
            3,
            r=2,
            lora_alpha=5,
            target_modules=[first, second],
            rank_pattern={first: 6},
            alpha_pattern={rf"layers.1.*{second}": 11},
        ),
    }


def engine_of(
    model: torch.nn.Module, attributes: tuple[Attribute, ...] = (), name: str | None = None, **spec
) -> Engine:
    """An engine over a model, without adapters. name: the base's; None: its family's."""
    name = name or model.config.model_type
    own = BaseSpec(name, f"tiny/{name}", attributes=attributes, **spec)
    base = Base(own, "memory", "folder", model, tokenizer())
    return Engine(Catalog(folder=".", default=name, bases={name: own}), base)


def engine(family: str, folders: dict[str, Path], attributes: tuple[Attribute, ...] = ()) -> Engine:
    """An engine over a tiny model with the given adapters loaded through the real code."""
    built = engine_of(model(family), attributes, family)
    for name, folder in folders.items():
        report = built.add_adapter(str(folder), name=name)
        assert report.ok, report
    return built


def write_endless(folder: Path, adapters: Mapping[str, Mapping[str, object]] | None = None) -> Path:
    """A catalog of a base that is loaded in no time and writes for as long as it is asked to."""
    config = FAMILIES["llama"]()
    config.max_position_embeddings = 4096
    model = random(config)
    model.lm_head.weight.data[config.eos_token_id] = 0  # never the likeliest
    model.save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")
    bases = {"tiny": {"id": "nobody/tiny", "folder": str(folder / "base"), "adapters": adapters or {}}}
    (folder / "catalog.yaml").write_text(yaml.safe_dump({"default": "tiny", "bases": bases}))
    return folder / "catalog.yaml"
