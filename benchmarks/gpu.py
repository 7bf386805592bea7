"""An 8B-shaped Llama with random weights, in bfloat16 and nf4: what a GPU makes of a model of real size.

Only the shape is Meta's, so nothing is downloaded; speed does not depend on what the weights are.
"""

from __future__ import annotations

import gc
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from benchmarks import fusion, single_stream, throughput
from benchmarks.fixture import BenchFixture
from benchmarks.plan import Plan
from benchmarks.roofline import copy_bandwidth, weight_bytes
from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError

DTYPES = {"bf16": "none", "nf4": "nf4"}
MEASURES = {"single": single_stream.measure, "fusion": fusion.measure, "users": throughput.measure}


@dataclass(frozen=True)
class Shape:
    """A Llama's size, as its config names it."""

    num_hidden_layers: int = 32
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    vocab_size: int = 128256


def measure(plan: Plan, folder: Path, shape: Shape = Shape(), rank: int = 16, device: str = "cuda") -> dict:
    """Per dtype: single stream, KL fusion, many users, and the bandwidth's floor for one token.

    folder: room for the weights once, 16 GB at full size. A dtype that this machine cannot load is left out,
    with the reason on stderr; raises its ComposerError when none can be.
    """
    stored = _store(shape, folder / "base", device)
    results: dict[str, dict] = {}
    fault: ComposerError | None = None
    for name, quantization in DTYPES.items():
        spec = BaseSpec(
            "shape",
            "random/llama-8b-shape",
            folder=str(stored),
            dtype="bfloat16",
            quantization=quantization,
        )
        # Modules refer to each other in circles: the last base is gone only when they were collected.
        gc.collect()
        print(f"bench: {name} ...", file=sys.stderr)
        try:
            results[name] = _one(BenchFixture(spec, folder / name, rank=rank, device=device), plan)
        except ComposerError as raised:  # what the other dtype took minutes to measure must not go with it
            fault = raised
            print(f"bench: {name} is left out: {fault}", file=sys.stderr)
    if fault and not results:
        raise fault
    return {"shape": asdict(shape), "rank": rank, "device": device, "dtypes": results}


def _one(fixture: BenchFixture, plan: Plan) -> dict:
    size, bandwidth = weight_bytes(fixture), copy_bandwidth(fixture.device)
    sections = {"floor": {"bytes": size, "bandwidth": bandwidth, "seconds": size / bandwidth}}
    for name, measure in MEASURES.items():
        sections[name] = measure(fixture, plan)
        fixture.release()
    return sections


def _store(shape: Shape, folder: Path, device: str) -> Path:
    """Random weights and a tokenizer on disk, so that they are loaded as any base is."""
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
