"""Writes an adapter as PEFT reads it: safetensors and a configuration. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from composer.adapters.bank import Adapter
from composer.adapters.files import CONFIG, WEIGHTS
from composer.core.errors import ComposerError

PREFIX = "base_model.model."


def write_adapter(folder: Path, adapter: Adapter, base: str, revision: str | None = None) -> None:
    """Write an adapter with scaling 1 at every site: B carries it. Ranks may differ between sites.

    base: the Hub id of the model that it is for. Raises ComposerError for an adapter without sites, and where
    nothing can be written.
    """
    if not adapter:
        raise ComposerError("The mix adds nothing at any layer, so there is no adapter to write.")
    ranks = {path: int(own.A.shape[0]) for path, own in adapter.items()}
    tensors: dict[str, torch.Tensor] = {}
    for path, own in adapter.items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = own.A.detach().cpu().contiguous()
        scaled = own.B.detach().float() * own.scaling
        tensors[f"{PREFIX}{path}.lora_B.weight"] = scaled.to(own.B.dtype).cpu().contiguous()
    config = _config(ranks, base, revision)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    except OSError as fault:
        raise ComposerError("The adapter cannot be written there; choose another folder.") from fault


def _config(ranks: Mapping[str, int], base: str, revision: str | None) -> dict[str, object]:
    """alpha equals the rank at every site, so that PEFT scales by 1."""
    rank = max(ranks.values())
    other = {path: own for path, own in ranks.items() if own != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_dropout": 0.0,
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": sorted(ranks),
        "rank_pattern": other,
        "alpha_pattern": other,
    }
