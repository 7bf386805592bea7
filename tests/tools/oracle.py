"""PEFT as the oracle: what an adapter's two files do to a base when PEFT loads them, and when we do."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from composer.adapters.bank import Adapter
from composer.adapters.fit.mapping import base_names
from composer.adapters.reading import Reader
from composer.core.catalog_types import AdapterSpec, FitReport
from composer.model.gated_model import GatedModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Deltas = Mapping[str, torch.Tensor]


def by_peft(model: torch.nn.Module, folder: Path) -> tuple[Deltas, list[str]] | None:
    """What PEFT adds to each linear layer that it changes, and the tensors that it does not use; None where
    it refuses the files."""
    found, load = [], PeftModel.load_adapter
    seen = lambda *given, **more: found.append(load(*given, **more)) or found[-1]  # noqa: E731
    try:
        with warnings.catch_warnings(), patch.object(PeftModel, "load_adapter", seen):
            warnings.simplefilter("ignore")
            loaded = PeftModel.from_pretrained(model, folder)
    except Exception:
        return None
    deltas = {}
    for path, module in loaded.named_modules():
        if isinstance(module, LoraLayer):
            delta = module.get_delta_weight("default").detach()
            if delta.any():
                deltas[path.removeprefix("base_model.model.")] = delta
    return deltas, list(found[0].unexpected_keys)


def reader(model: torch.nn.Module) -> Reader:
    """Ours on a model, whose linear layers it wraps."""
    names = base_names(model)
    return Reader(GatedModel(model).sites, names, torch.device("cpu"), torch.float32)


def by_us(reading: Reader, folder: Path) -> tuple[FitReport, Deltas]:
    report, adapter = reading.read(AdapterSpec("joy", str(folder)))
    return report, dense(adapter)


def dense(adapter: Adapter) -> Deltas:
    deltas = {path: own.scaling * own.B @ own.A for path, own in adapter.items()}
    return {path: delta for path, delta in deltas.items() if delta.any()}


def same(ours: Deltas, reference: Deltas) -> bool:
    return ours.keys() == reference.keys() and all(
        torch.allclose(ours[path], reference[path], rtol=1e-5, atol=1e-6) for path in ours
    )


def change_config(folder: Path, **changes: object) -> Path:
    """Set keys of adapter_config.json; None takes one out."""
    path = folder / CONFIG
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))
    return folder


def rename(folder: Path, pattern: str, other: str) -> Path:
    """Rename the tensors by a regex."""
    tensors = load_file(folder / WEIGHTS)
    tensors = {re.sub(pattern, other, key): tensor.clone() for key, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS)
    return folder
