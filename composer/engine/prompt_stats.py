"""What methods want to know of a prompt before it is continued: a prefill, mostly of a row per adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch

from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.engine.adapter_snapshot import Shelf
from composer.engine.casting import Cast
from composer.methods import Prompted
from composer.model.gated_model import GatedModel, gates_tensor
from composer.model.lens import Lens
from composer.model.runtime.prefill import Read
from composer.model.runtime.runner import Pass

# Where LoGo listens (arXiv 2511.07129, its authors' code).
QUERY = "self_attn.q_proj"
# 1 - cosine of an adapter whose numbers overflow: as far from the base as there is.
OPPOSITE = 2.0


class Probe:
    """Reads prompts for the fields of Prompted. Holds nothing but the base."""

    def __init__(self, model: GatedModel, reads: Pass):
        self._model, self._pass, self._lens = model, reads, Lens(model.model)

    def __call__(
        self,
        needs: Sequence[str],
        shelf: Shelf,
        composition: Composition,
        ids: Sequence[int],
        cast: Cast,
    ) -> Prompted:
        """Over the cast's n names; 0 for those that take no part."""
        part = np.flatnonzero(cast.weights)
        columns = cast.columns[part].tolist()
        ways: Mapping[str, Callable[[], np.ndarray]] = MappingProxyType(
            {
                "kl": lambda: self.divergence(
                    shelf, ids, columns, composition.norm, composition.tokens == "all"
                ),
                "distance": lambda: self.distance(shelf, ids, columns),
                "share": lambda: self.share(shelf, ids, columns),
                "pull": lambda: self.pull(shelf, ids, columns),
            }
        )
        read = {}
        for need in needs:
            shape = (len(cast.names),) if need == "pull" else (self._model.layers, len(cast.names))
            read[need] = np.zeros(shape, np.float32)  # [L, n] or [n]
            if columns:
                read[need][..., part] = ways[need]()
        return Prompted(**read)

    def divergence(
        self, shelf: Shelf, ids: Sequence[int], columns: list[int], norm: bool, every: bool = False
    ) -> np.ndarray:
        """KL of the base's lens from each column's adapter alone, [L, n] nats, at the prompt's last token, or
        with `every` in the mean over its tokens."""
        read = self._alone(shelf, ids, columns, every)
        if not every:
            return self._lens.divergence(read.hidden, norm).cpu().numpy()
        places = [own[:, t] for own in read.hidden for t in range(len(ids))]  # L T of [1 + n, d]
        spread = self._lens.divergence(places, norm).view(len(read.hidden), len(ids), -1)  # [L, T, n]
        return spread.mean(dim=1).cpu().numpy()

    def distance(self, shelf: Shelf, ids: Sequence[int], columns: list[int]) -> np.ndarray:
        """1 - cosine of the base's hidden state with each column's adapter alone, last token; [L, n]."""
        hidden = torch.stack(self._alone(shelf, ids, columns).hidden).double()  # [L, 1 + n, d]
        cosine = torch.cosine_similarity(hidden[:, :1], hidden[:, 1:], dim=-1)  # [L, n]
        return (1 - cosine).nan_to_num(nan=OPPOSITE).clamp_min(0).cpu().numpy()

    def share(self, shelf: Shelf, ids: Sequence[int], columns: list[int]) -> np.ndarray:
        """Each column's contribution alone at the prompt's last token, [L, n]."""
        reading = self._alone(shelf, ids, columns).reading
        if reading is None:
            return np.zeros((self._model.layers, len(columns)), np.float32)
        shares = shelf.contribution(reading)  # [1 + n, L, N]
        rows = torch.arange(1, len(columns) + 1, device=shares.device)
        return shares[rows, :, columns].T.cpu().numpy()

    def pull(self, shelf: Shelf, ids: Sequence[int], columns: list[int]) -> np.ndarray:
        """|s_i B_i A_i x| at the last layer's query projection, x the base's own, last token; [n].

        One row: with all adapters on in the last layer alone, what they read is still the base's. One column
        alone takes all whatever it pulls. Raises ComposerError where none has that site.
        """
        if len(columns) < 2:
            return np.ones(len(columns), np.float32)
        layout, last = shelf.layout, self._model.layers - 1
        here = (path for path in layout.spans if self._model.layer_of[path] == last)
        path = next((path for path in here if path.endswith(QUERY)), None)
        if path is None or not set(columns) & set(layout.bank.sites[path].owner.tolist()):
            raise ComposerError(
                f"LoGo compares adapters at the last layer's {QUERY}, where none of these has anything; "
                "choose another method."
            )
        gates = np.zeros((1, self._model.layers, len(shelf.bank.names)), np.float32)  # [1, L, N]
        gates[:, last] = 1
        read = self._pass.read(layout, gates_tensor(gates, layout.owner.device), [ids], unembed=False)
        start, end = layout.spans[path]
        z, site = read.reading.coded[0, start:end].float(), layout.bank.sites[path]  # [R]
        # Not a product with 0: another column's z may have overflowed.
        parts = [z.where(site.owner == column, 0) for column in columns]  # n of [R]
        return np.array([float((own @ site.gram @ own).clamp_min(0).sqrt()) for own in parts], np.float32)

    def _alone(self, shelf: Shelf, ids: Sequence[int], columns: list[int], every: bool = False) -> Read:
        """One prefill: row 0 the base, row i the i-th column's adapter alone at weight 1."""
        rows = len(columns) + 1
        alone = np.zeros((rows, self._model.layers, len(shelf.bank.names)), np.float32)  # [1 + n, L, N]
        for row, column in enumerate(columns, start=1):
            alone[row, :, column] = 1
        gates = gates_tensor(alone, shelf.layout.owner.device)
        return self._pass.read(shelf.layout, gates, [ids] * rows, unembed=False, every=every)
