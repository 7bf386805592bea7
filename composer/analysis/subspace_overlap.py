"""Do adapters read from and write to the same directions? On orthonormal bases, so that only the subspaces
count and not how an adapter's factors are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from composer.adapters.bank import AdapterBank, SiteFactors


@dataclass(frozen=True)
class Subspaces:
    """Means over a layer's sites; NaN where none has both adapters."""

    # reads, writes: [L, n, n] overlap |U_i^T U_j|_F^2 / min(r_i, r_j) of the spans of A's rows and of B's
    # columns: 0 orthogonal, 1 one inside the other.
    reads: np.ndarray
    # reads_chance, writes_chance: [L, n, n] what random subspaces of these sizes would have.
    reads_chance: np.ndarray
    writes: np.ndarray
    writes_chance: np.ndarray
    # [L] Pico's c_1, the share of the largest direction in all adapters' B side by side (arXiv 2604.16826);
    # as published it looks at B alone, so it does depend on how the factors are written, and one B much
    # larger than the others rules it.
    collision: np.ndarray
    # [L, n, n] the same of each two, NaN on the diagonal.
    collisions: np.ndarray


def compare_subspaces(bank: AdapterBank, layer_of: Mapping[str, int], layers: int) -> Subspaces:
    """Compare all adapters of a bank, two or more; of fewer, every collision is NaN."""
    count = len(bank.names)
    means = [_Mean((layers, count, count)) for _ in range(4)]
    collisions, pair_collisions = _Mean((layers,)), _Mean((layers, count, count))
    for path, site in bank.sites.items():
        layer, own = layer_of[path], [site.part(column) or site.parts[0].nothing() for column in range(count)]
        read = _overlap([part.A.T for part in own])
        write = _overlap([part.B for part in own])
        for mean, value in zip(means, (*read, *write), strict=True):
            mean.add(layer, value)
        collisions.add(layer, collision(site))
        pairs = np.full((count, count), np.nan)
        for i, j in combinations(range(count), 2):
            pairs[i, j] = pairs[j, i] = collision(site.select((i, j)))
        pair_collisions.add(layer, pairs)
    reads, reads_chance, writes, writes_chance = (mean.value for mean in means)
    return Subspaces(reads, reads_chance, writes, writes_chance, collisions.value, pair_collisions.value)


def collision(site: SiteFactors) -> float:
    """c_1 = sigma_1^2 / sum_k sigma_k^2 of [B_1 | ... | B_n]; NaN with fewer than two adapters there.

    1 when all write along one line; never below 1 / (sum of ranks).
    """
    b = site.B.double()
    if len(site.adapter_index[b.any(dim=0)].unique()) < 2:
        return float("nan")
    energy = torch.linalg.eigvalsh(b.T @ b).clamp_min(0)  # sigma^2, rising
    return float(energy[-1] / energy.sum())


def _overlap(spans: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """n matrices [d, r_i] -> their column spaces' overlap and its chance level, [n, n] both."""
    bases = [_basis(span) for span in spans]
    ranks = np.array([basis.shape[1] for basis in bases], float)
    smaller = np.minimum(ranks[:, None], ranks[None, :])
    smaller[smaller == 0] = np.nan
    inner = torch.cat(bases, dim=1)  # [d, K]
    squares = (inner.T @ inner).square()  # [K, K]
    sizes = ranks.astype(int).tolist()
    shared = [[float(block.sum()) for block in rows.split(sizes, dim=1)] for rows in squares.split(sizes)]
    # E |U_i^T U_j|_F^2 = r_i r_j / d for subspaces drawn at random.
    return np.array(shared) / smaller, ranks[:, None] * ranks[None, :] / len(inner) / smaller


def _basis(columns: torch.Tensor) -> torch.Tensor:
    """[d, r] -> [d, k], orthonormal; k < r where columns depend on each other (merged adapters may).

    QR finds a frame; the small SVD after it drops the directions that are rounding only.
    """
    frame, mixing = torch.linalg.qr(columns.float())
    turned, sizes, _ = torch.linalg.svd(mixing, full_matrices=False)
    tolerance = max(columns.shape) * torch.finfo(torch.float32).eps
    return frame @ turned[:, sizes > tolerance * sizes.max()] if len(sizes) else frame


class _Mean:
    """Mean of what each layer was given, place by place, NaN left out."""

    def __init__(self, shape: tuple[int, ...]):
        self._sum, self._count = np.zeros(shape), np.zeros(shape)

    def add(self, layer: int, value: np.ndarray | float) -> None:
        self._sum[layer] += np.nan_to_num(value)
        self._count[layer] += ~np.isnan(value)

    @property
    def value(self) -> np.ndarray:
        return np.divide(self._sum, self._count, out=np.full_like(self._sum, np.nan), where=self._count > 0)
