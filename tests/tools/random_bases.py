"""Bases of real sizes with random weights, made a layer at a time: on disk, or in 4 bits in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import init_empty_weights
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from tests.tools.real_shapes import lora, peft_tensors, without_memory

# A prime, so that no two rows of a matrix are the same.
NUMBERS = 1_000_003


class RandomWeights:
    """Tensors of normal numbers, the same for the same seed.

    They repeat a million: drawing billions would take minutes.
    """

    def __init__(self, seed: int, device: str = "cpu", dtype: torch.dtype = torch.bfloat16):
        generator = torch.Generator().manual_seed(seed)
        self._numbers = torch.randn(NUMBERS, generator=generator).to(device, dtype)
        self._place = 0

    def __call__(self, shape: torch.Size, scale: float) -> torch.Tensor:
        made = self._numbers.new_empty(math.prod(shape))
        for start in range(-self._place, len(made), NUMBERS):
            part = made[max(start, 0) : start + NUMBERS]
            part.copy_(self._numbers[max(-start, 0) :][: len(part)])
        self._place = (self._place + len(made)) % NUMBERS
        return made.mul_(scale).view(shape)


def scale_of(name: str, shape: torch.Size) -> float:
    """Norms stay near 1 and logits have the size that a trained model's have."""
    return 0.05 if len(shape) < 2 else 1.0 if "embed_tokens" in name else shape[-1] ** -0.5


def save_base(folder: Path, config: PretrainedConfig, seed: int = 0) -> Path:
    """A checkpoint in bfloat16, a file for each decoder layer, as those of large bases are split."""
    random, model = RandomWeights(seed), without_memory(config)
    files: dict[str, dict[str, torch.Size]] = {}
    for name, parameter in model.named_parameters():
        layer = next((part for part in name.split(".") if part.isdigit()), "rest")
        files.setdefault(f"model-{layer}.safetensors", {})[name] = parameter.shape
    folder.mkdir(parents=True, exist_ok=True)
    for file, shapes in files.items():
        tensors = {name: _weight(random, name, shape) for name, shape in shapes.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {name: file for file, shapes in files.items() for name in shapes}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    return folder


def random_nf4(config: PretrainedConfig, device: str, seed: int = 0) -> PreTrainedModel:
    """A base in nf4 whose weights never are all there in 16 bits."""
    from bitsandbytes.nn import Linear4bit, Params4bit
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import HfQuantizer

    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    replace_with_bnb_linear(model, kept, quantised)
    random = RandomWeights(seed, device)
    for name, parameter in list(model.named_parameters()):
        path, _, leaf = name.rpartition(".")
        module, value = model.get_submodule(path), _weight(random, name, parameter.shape)
        if isinstance(module, Linear4bit) and leaf == "weight":
            value = Params4bit(value, requires_grad=False, **vars(parameter)).to(device)
        else:
            value = torch.nn.Parameter(value, requires_grad=False)
        setattr(module, leaf, value)
    model.tie_weights()
    model.is_loaded_in_4bit = True
    return model.to(device).eval()


def save_adapter(folder: Path, config: PretrainedConfig, seed: int, r: int = 16) -> Path:
    """An adapter of random numbers on every linear layer, its files as PEFT writes them.

    What it adds to a layer's output is half as large as that.
    """
    given: LoraConfig = lora("all-linear", r)
    random = RandomWeights(seed, dtype=torch.float32)
    tensors: Mapping[str, torch.Tensor] = peft_tensors(without_memory(config), given)
    given.inference_mode = True
    given.save_pretrained(str(folder))
    sizes = {name: 0.25 if "lora_B" in name else 1.0 for name in tensors}
    values = {
        name: random(each.shape, sizes[name] * each.shape[-1] ** -0.5) for name, each in tensors.items()
    }
    save_file(values, folder / "adapter_model.safetensors")
    return folder


def peft_logits(
    model: PreTrainedModel, folder: Path, weights: Mapping[str, float], ids: Sequence[int]
) -> np.ndarray:
    """The next token's logits with PEFT's layers around the model's own, for adapters in folders of their
    names. Changes the model."""
    first, *rest = weights
    made = PeftModel.from_pretrained(model, folder / first, adapter_name=first, autocast_adapter_dtype=False)
    for name in rest:
        made.load_adapter(folder / name, adapter_name=name, autocast_adapter_dtype=False)
    for module in made.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling.update({name: weights[name] * own for name, own in module.scaling.items()})
    made.base_model.set_adapter(list(weights))
    with torch.inference_mode():
        read = made.eval()(input_ids=torch.tensor([list(ids)], device=model.device))
    return read.logits[0, -1].float().cpu().numpy()


def relative_distance(one: np.ndarray, other: np.ndarray) -> float:
    """How far two vectors are from each other, relative to the second: quadratic means."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def _weight(random: RandomWeights, name: str, shape: torch.Size) -> torch.Tensor:
    value = random(shape, scale_of(name, shape))
    # Gemma's norms add 1 themselves; the little that is missing does not matter here.
    return value + 1 if len(shape) < 2 and name.endswith("norm.weight") else value
