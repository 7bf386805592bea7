"""How much memory a base takes, from its config alone: nothing of it need be loaded or downloaded.

The modules are made on torch's meta device, where tensors have a shape and no memory. Their sizes are those
of the loaded base; the layers that transformers has bitsandbytes quantise are counted in 4 or 8 bits.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError, sanitize
from composer.model.architectures import architectures
from composer.model.gated_model import GatedModel

GIGA = 1e9
# bitsandbytes' nf4 with double quantisation: a byte for each block of weights, a float32 for each block of
# such bytes, and for each layer two tables of float32 and an offset (QLoRA, https://arxiv.org/abs/2305.14314).
# The last is in bytes.
NF4_BLOCK, NF4_OUTER_BLOCK, NF4_TABLES = 64, 256, 4 * (16 + 256 + 1)


@dataclass(frozen=True)
class MemoryEstimate:
    """What a base will take, in bytes but for `parameters`."""

    parameters: int
    # The weights as they are loaded, in the base's dtype and quantisation.
    weights: int
    # At most, what a CPU adds to them: a second copy in oneDNN's layout, and what the compiled step reads.
    cpu_copies: int
    # Keys and values of one token of one text.
    kv_token: int
    # An adapter on every linear layer of the decoder, for each unit of its rank.
    adapter_rank: int
    # Why the base runs through transformers' modules, as the end of a sentence; None: it has a faster pass.
    slower: str | None = None

    def loaded(self, device: str) -> int:
        """The base once it has written a text, without keys, values and adapters."""
        return self.weights + (self.cpu_copies if device == "cpu" else 0)


def estimate_memory(config: PretrainedConfig, spec: BaseSpec) -> MemoryEstimate:
    """The memory of the base with this config, in the dtype and quantisation that `spec` says.

    Raises ComposerError for a config that describes no model which can be loaded.
    """
    dtype = getattr(torch, spec.dtype)
    model = _without_memory(config, spec, dtype)
    tensors = {id(each): each.nbytes for each in chain(model.parameters(), model.buffers())}
    linear = [module for module in model.modules() if type(module) is nn.Linear]
    for module in _quantised(model, spec.quantization):
        outputs, inputs = module.weight.shape
        tensors[id(module.weight)] = quantised_bytes(outputs, inputs, spec.quantization)
    gated = GatedModel(model)
    slower = _slower(gated)
    dense = spec.quantization == "none" and spec.dtype == "float32" and slower is None
    return MemoryEstimate(
        parameters=sum(each.numel() for each in model.parameters()),
        weights=sum(tensors.values()),
        cpu_copies=2 * sum(module.weight.nbytes for module in linear) if dense else 0,
        kv_token=_kv_values(config) * dtype.itemsize,
        adapter_rank=sum(map(sum, gated.sites.values())) * dtype.itemsize,
        slower=slower,
    )


def quantised_bytes(outputs: int, inputs: int, quantization: str) -> int:
    """Bytes of a weight [outputs, inputs] in nf4 or int8, with the scales that belong to it."""
    count = outputs * inputs
    if quantization == "int8":
        return count + 4 * outputs
    blocks = math.ceil(count / NF4_BLOCK)
    return math.ceil(count / 2) + blocks + 4 * math.ceil(blocks / NF4_OUTER_BLOCK) + NF4_TABLES


def free_memory(device: str) -> int:
    """Bytes that a program can still take on a device: "cpu", "cuda"..."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    import psutil  # comes with accelerate

    return min(psutil.virtual_memory().available, _left_in_container())


def free_for(spec: BaseSpec, device: str) -> int:
    """Bytes that a base can still take: of the device, or of all cards and the CPU where it is spread."""
    if spec.device_map != "auto" or device != "cuda":
        return free_memory(device)
    cards = (f"cuda:{card}" for card in range(torch.cuda.device_count()))
    return sum(map(free_memory, (*cards, "cpu")))


def memory_warning(estimate: MemoryEstimate, spec: BaseSpec, device: str) -> str | None:
    """The sentence for a base that needs more memory than a device has free; None for any other."""
    needed, free = estimate.loaded(device), free_for(spec, device)
    if needed <= free:
        return None
    cures = ["close other programs"]
    if device == "cuda" and spec.device_map == "single":
        cures.append("set `device_map: auto` for it in the catalog")
    if spec.quantization != "nf4":
        cures.append("set `quantization: nf4` for it in the catalog")
    return (
        f"The base {spec.name} needs about {needed / GIGA:.1f} GB of memory and {free / GIGA:.1f} GB are "
        f"free, so loading it may fail: {', '.join(cures)}, or choose a smaller base."
    )


def warning_before_loading(config: PretrainedConfig, spec: BaseSpec, device: str) -> str | None:
    """`memory_warning` for a base with this config; None also where nothing can be said."""
    try:
        return memory_warning(estimate_memory(config, spec), spec, device)
    except ComposerError:
        return None


def _without_memory(config: PretrainedConfig, spec: BaseSpec, dtype: torch.dtype) -> PreTrainedModel:
    kind = sanitize(getattr(config, "model_type", None), 40)
    refusal = ComposerError(
        f"The config of the base {spec.id} describes no causal language model that can be loaded ({kind}): "
        "choose another base."
    )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise refusal
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
    except Exception as fault:  # a stranger's config can raise anything
        raise refusal from fault


def _quantised(model: PreTrainedModel, quantization: str) -> list[nn.Module]:
    """The layers that transformers replaces with bitsandbytes' ones: linear ones, but the output's."""
    if quantization == "none":
        return []
    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    return [
        module
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, kept)
    ]


def _slower(model: GatedModel) -> str | None:
    if any(each.fits(model) for each in architectures()):
        return None
    reasons = [each.why_not(model) for each in architectures() if each.why_not is not None]
    return "; ".join(filter(None, reasons)) or "no architecture fits it"


def _kv_values(config: PretrainedConfig) -> int:
    """Numbers that the keys and values of a token are, in all layers."""
    text = config.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    if not heads:  # of a family without attention
        return 0
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return 2 * text.num_hidden_layers * (getattr(text, "num_key_value_heads", None) or heads) * width


def _left_in_container() -> float:
    """What a container's limit leaves, where the system tells it (Linux, cgroup 2)."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used, parts = (
            (folder / f"memory.{name}").read_text("utf-8") for name in ("max", "current", "stat")
        )
        # Files that are only cached are given up when memory is wanted.
        cached = dict(line.split() for line in parts.splitlines()).get("inactive_file", 0)
        return int(limit) - int(used) + int(cached)
    except (OSError, ValueError):  # no such container, or no limit ("max")
        return math.inf
