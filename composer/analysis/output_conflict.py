"""How adapters' outputs are aligned on a prompt, from the rank-sized products alone.

    conflict[l, i, j] = <y_i, y_j> / (|y_i| |y_j|),  y_i = s_i (x A_i^T) B_i^T

with products summed over the layer's sites: <y_i, y_j> = z_i^T (B_i^T B_j) z_j, so nothing of size d_out is
made per token. Leakage is |y_j| / |y_i| in the pass with adapter i alone (the functional interference of
OSRM, arXiv 2505.22934, known second-hand): how much j would add on the activations of i.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from composer.adapters.bank import AdapterBank
from composer.analysis.shadow_adapters import owners


class OutputGram(NamedTuple):
    """The outputs of n adapters at gate 1 in each row of a pass. NaN where a layer has no site."""

    # [G, L, n, n] cosine of the outputs at the prompt's last token, and averaged over its tokens.
    last: np.ndarray
    mean: np.ndarray
    # [G, L, n] |y_i|, averaged over the prompt's tokens.
    size: np.ndarray


class OutputGramObserver:
    """Collects <y_i, y_j> for every token of the prompt, in a pass over a bank `with_shadow_adapters`.

    bank: the n adapters without their shadow copies. tokens: length of the prompt.
    """

    def __init__(self, bank: AdapterBank, layer_of: Mapping[str, int], layers: int, tokens: int):
        self._bank, self._layer_of, self._layers, self._tokens = bank, layer_of, layers, tokens
        self._inner: torch.Tensor | None = None  # [G, L, P, n, n]

    def note(self, path: str, z: torch.Tensor, out: torch.Tensor) -> None:
        site, count = self._bank.sites[path], len(self._bank.names)
        gram = z[:, : self._tokens, site.rank :].float()  # [G, P, R]
        apart = gram[:, :, None] * owners(site, count).to(gram)  # [G, P, n, R]
        b = site.B.float()
        if self._inner is None:
            self._inner = gram.new_zeros(len(z), self._layers, self._tokens, count, count)
        inner = apart @ (b.T @ b) @ apart.transpose(-1, -2)  # [G, P, n, n]
        self._inner[:, self._layer_of[path]] += inner.to(self._inner.device)

    def gram(self) -> OutputGram:
        """The result. Raises ValueError if no site of the bank was in a pass."""
        if self._inner is None:
            raise ValueError("no site of the bank was in a pass")
        norms = self._inner.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()  # [G, L, P, n]
        cosine = self._inner / (norms[..., :, None] * norms[..., None, :])  # [G, L, P, n, n]
        cosine = cosine.clamp(-1, 1)
        size = norms.mean(dim=2)  # [G, L, n]
        size = torch.where(size > 0, size, torch.nan)
        parts = (cosine[:, :, -1], cosine.nanmean(dim=2), size)
        return OutputGram(*(part.cpu().numpy() for part in parts))


def apply_gate_sign(cosine: np.ndarray, gates: np.ndarray) -> np.ndarray:
    """The outputs' cosine [L, n, n] with the signs of the gates [L, n]; NaN where a gate is 0."""
    sign = np.where(gates == 0, np.nan, np.sign(gates))  # [L, n]
    return cosine * sign[:, :, None] * sign[:, None, :]


def leakage(size: np.ndarray) -> np.ndarray:
    """[L, n, n]: mean |y_j| over mean |y_i| on the activations of adapter i alone; 1 where i is j.

    size: [n, L, n], row i from the pass with adapter i alone.
    """
    own = np.einsum("ili->li", size)  # [L, n]
    return size.transpose(1, 0, 2) / own[:, :, None]
