"""Small banks of random factors, and their changes written out in full."""

from __future__ import annotations

import numpy as np
import torch

from composer.adapters.bank import AdapterBank, LoraFactors

Q, K, UP = "layers.0.q", "layers.0.k", "layers.1.up"
LAYER_OF, LAYERS = {Q: 0, K: 0, UP: 1}, 3
WIDTHS = {Q: (12, 10), K: (6, 10), UP: (14, 10)}


def factors(seed: int, rank: int, path: str, scaling: float = 1.0) -> LoraFactors:
    out, inner = WIDTHS[path]
    draw = torch.Generator().manual_seed(seed)
    return LoraFactors(
        torch.randn(rank, inner, generator=draw), torch.randn(out, rank, generator=draw), scaling
    )


def adapter(seed: int, rank: int, paths=(Q, K, UP), scaling: float = 1.0) -> dict[str, LoraFactors]:
    return {path: factors(seed + place, rank, path, scaling) for place, path in enumerate(paths)}


def bank(**adapters: dict[str, LoraFactors]) -> AdapterBank:
    made = AdapterBank()
    for name, each in adapters.items():
        made = made.add(name, each)
    return made


def dense(adapter: dict[str, LoraFactors], layer: int) -> np.ndarray:
    """The changes s B A of a layer's sites, one long vector; 0 where the adapter has no site."""
    parts = []
    for path in (path for path, at in LAYER_OF.items() if at == layer):
        own = adapter.get(path)
        parts.append(np.zeros(np.prod(WIDTHS[path])) if own is None else _delta(own).ravel())
    return np.concatenate([np.zeros(0), *parts])


def _delta(own: LoraFactors) -> np.ndarray:
    return own.scaling * (own.B.double() @ own.A.double()).numpy()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def refactored(adapter: dict[str, LoraFactors], seed: int = 9) -> dict[str, LoraFactors]:
    """The same changes by other factors: B G and G^-1 A."""
    made = {}
    for path, own in adapter.items():
        draw = torch.Generator().manual_seed(seed)
        g = torch.eye(len(own.A)) + 0.3 * torch.randn(len(own.A), len(own.A), generator=draw)
        made[path] = LoraFactors(torch.linalg.inv(g) @ own.A, own.B @ g, own.scaling)
    return made
