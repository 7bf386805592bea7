"""An 8B-shaped Llama with random weights, stored as any base is.

Only the shape is Meta's, so nothing is downloaded; speed does not depend on what the weights are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from composer.core.catalog_types import BaseSpec


@dataclass(frozen=True)
class Shape:
    """A Llama's size, as its config names it."""

    num_hidden_layers: int = 32
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    vocab_size: int = 128256


EIGHT_B = Shape()


def spec_of(folder: Path, quantization: str) -> BaseSpec:
    """The stored shape as a base of a catalog, in bfloat16 and quantised as bitsandbytes does it."""
    return BaseSpec(
        "shape", "random/llama-8b-shape", folder=str(folder), dtype="bfloat16", quantization=quantization
    )


def store(shape: Shape, folder: Path, device: str) -> Path:
    """Random weights and a tokenizer on disk, once; 16 GB at full size. device: where they are drawn."""
    if (folder / "tokenizer.json").is_file():  # written last
        return folder
    config = LlamaConfig(**asdict(shape), max_position_embeddings=4096, bos_token_id=1, eos_token_id=2)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    vocabulary = {char: place for place, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw)
