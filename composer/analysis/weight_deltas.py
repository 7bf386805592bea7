"""Adapters compared by their weights alone, whatever the prompt: never a d x d matrix, only the factors.

    <DW_i, DW_j> = s_i s_j tr((B_i^T B_j)(A_j A_i^T))

It does not change when an adapter's factors are written differently (B G, G^-1 A).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from composer.adapters.bank import AdapterBank, SiteFactors
from composer.analysis.shadow_adapters import owners


@dataclass(frozen=True)
class Deltas:
    """n adapters' changes of the weights. NaN: a cosine or a share of what is not there."""

    # [L, n, n] of a layer's changes, its sites taken together.
    cosine: np.ndarray
    # [n, n] of the whole changes.
    overall: np.ndarray
    # [n, n] root mean square of the cosine over the sites both have.
    rms: np.ndarray
    # [n, n] what it would be for changes turned at random.
    chance: np.ndarray
    # [L, n] |DW_i|.
    norm: np.ndarray
    # [L, n] |DW_i| / |W0| over the adapter's own sites.
    relative: np.ndarray
    # [n, n] |DW_i| / |DW_j| over all sites.
    ratio: np.ndarray


def compare_deltas(
    bank: AdapterBank, layer_of: Mapping[str, int], layers: int, weight_norms: Mapping[str, float]
) -> Deltas:
    """Compare all adapters of a bank. weight_norms: |W0| of every site of the bank."""
    count, paths = len(bank.names), list(bank.sites)
    layer = np.array([layer_of[path] for path in paths], int)  # [S]
    products = np.array([_inner(bank.sites[path], count) for path in paths])
    inner = products.reshape(len(paths), count, count)  # [S, n, n]
    squares = np.einsum("sii->si", inner)  # [S, n]
    own = np.array([weight_norms[path] for path in paths])[:, None] ** 2 * (squares > 0)  # [S, n]
    firsts = [bank.sites[path].parts[0] for path in paths]
    area = np.array([part.A.shape[1] * part.B.shape[0] for part in firsts])  # [S]

    def per_layer(values: np.ndarray) -> np.ndarray:
        total = np.zeros((layers, *values.shape[1:]))
        np.add.at(total, layer, values)
        return total

    shared = (squares[:, :, None] > 0) & (squares[:, None, :] > 0)  # [S, n, n]
    with np.errstate(invalid="ignore", divide="ignore"):
        norm = np.sqrt(per_layer(squares))  # [L, n]
        whole = np.sqrt(squares.sum(axis=0))  # [n]
        cosine = np.nan_to_num(_cosine(inner))  # [S, n, n]
        sites = shared.sum(axis=0)  # [n, n]
        return Deltas(
            cosine=_cosine(per_layer(inner)),
            overall=_cosine(inner.sum(axis=0)),
            rms=np.sqrt((cosine**2).sum(axis=0) / sites),
            chance=np.sqrt((shared / area[:, None, None]).sum(axis=0) / sites),
            norm=norm,
            relative=norm / np.sqrt(per_layer(own)),
            ratio=whole[:, None] / whole[None, :],
        )


def _inner(site: SiteFactors, count: int) -> np.ndarray:
    """[n, n] inner products of the site's changes, in float64: cosines of near-orthogonal ones are small."""
    a, b, scaling = site.A.double(), site.B.double(), site.scaling.double()
    split = owners(site, count)  # [n, R]
    columns = (b.T @ b) * (a @ a.T) * torch.outer(scaling, scaling)  # [R, R]
    return (split @ columns @ split.T).cpu().numpy()


def _cosine(inner: np.ndarray) -> np.ndarray:
    """[..., n, n] inner products -> cosines; NaN beside a vector of length 0."""
    norms = np.sqrt(np.einsum("...ii->...i", inner))
    return np.clip(inner / (norms[..., :, None] * norms[..., None, :]), -1, 1)
