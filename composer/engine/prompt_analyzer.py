"""The statistics of a prompt that methods need: one prefill, for most of them with a row per adapter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from composer.core.errors import ComposerError
from composer.engine.adapter_snapshot import AdapterSnapshot
from composer.engine.resolve import ResolvedComposition
from composer.methods import PromptStats
from composer.model.gated_model import GatedModel, gates_tensor
from composer.model.lens import Lens
from composer.model.runtime.prefill import PrefillOutput
from composer.model.runtime.runner import ModelRunner

# The site whose norms LoGo compares, in the last layer (arXiv 2511.07129, its authors' code).
QUERY = "self_attn.q_proj"
# 1 - cosine of an adapter whose numbers overflow: the largest distance there is.
OPPOSITE = 2.0


class PromptAnalyzer:
    """Computes the fields of PromptStats. Holds only the base."""

    def __init__(self, model: GatedModel, runner: ModelRunner):
        self._model, self._runner, self._lens = model, runner, Lens(model.model)

    def __call__(
        self,
        stats: Sequence[str],
        snapshot: AdapterSnapshot,
        resolved: ResolvedComposition,
        ids: Sequence[int],
    ) -> PromptStats:
        """The named fields over the composition's N lanes; 0 for lanes with weight 0."""
        active, lanes = np.flatnonzero(resolved.weights), len(resolved.lanes)
        columns, asked = resolved.columns[active].tolist(), resolved.composition
        found = {}
        for name in stats:
            shape = (lanes,) if name == "query_norm" else (self._model.layers, lanes)
            found[name] = np.zeros(shape, np.float32)  # [L, N] or [N]
            if not columns:
                continue
            if name == "kl":
                found[name][:, active] = self.divergence(
                    snapshot, ids, columns, asked.norm, asked.tokens == "all"
                )
            else:
                found[name][..., active] = getattr(self, name)(snapshot, ids, columns)
        return PromptStats(**found)

    def divergence(
        self,
        snapshot: AdapterSnapshot,
        ids: Sequence[int],
        columns: list[int],
        norm: bool,
        every: bool = False,
    ) -> np.ndarray:
        """KL of the base's lens from each column's adapter alone, [L, n] nats, at the prompt's last token, or
        with `every` in the mean over its tokens."""
        read = self._alone(snapshot, ids, columns, every)
        if not every:
            return self._lens.divergence(read.hidden, norm).cpu().numpy()
        places = [own[:, t] for own in read.hidden for t in range(len(ids))]  # L T of [1 + n, d]
        divergence = self._lens.divergence(places, norm).view(len(read.hidden), len(ids), -1)  # [L, T, n]
        return divergence.mean(dim=1).cpu().numpy()

    def distance(self, snapshot: AdapterSnapshot, ids: Sequence[int], columns: list[int]) -> np.ndarray:
        """1 - cosine of the base's hidden state with each column's adapter alone, last token; [L, n]."""
        hidden = torch.stack(self._alone(snapshot, ids, columns).hidden).double()  # [L, 1 + n, d]
        cosine = torch.cosine_similarity(hidden[:, :1], hidden[:, 1:], dim=-1)  # [L, n]
        return (1 - cosine).nan_to_num(nan=OPPOSITE).clamp_min(0).cpu().numpy()

    def contribution(self, snapshot: AdapterSnapshot, ids: Sequence[int], columns: list[int]) -> np.ndarray:
        """Each column's contribution alone at the prompt's last token, [L, n]."""
        telemetry = self._alone(snapshot, ids, columns).telemetry
        if telemetry is None:
            return np.zeros((self._model.layers, len(columns)), np.float32)
        shares = snapshot.contribution(telemetry)  # [1 + n, L, N]
        rows = torch.arange(1, len(columns) + 1, device=shares.device)
        return shares[rows, :, columns].T.cpu().numpy()

    def query_norm(self, snapshot: AdapterSnapshot, ids: Sequence[int], columns: list[int]) -> np.ndarray:
        """|s_i B_i A_i x| at the last layer's query projection, x the base's own, last token; [n].

        One row: with all adapters on in the last layer alone, what they read is still the base's. One column
        alone takes all whatever it pulls. Raises ComposerError where none has that site.
        """
        if len(columns) < 2:
            return np.ones(len(columns), np.float32)
        layout, last = snapshot.layout.select(columns), self._model.layers - 1
        here = (path for path in layout.spans if self._model.layer_of[path] == last)
        path = next((path for path in here if path.endswith(QUERY)), None)
        if path is None or not len(layout.bank.sites[path].adapter_index):
            raise ComposerError(
                f"LoGo compares adapters at the last layer's {QUERY}, where none of these has anything; "
                "choose another method."
            )
        gates = np.zeros((1, self._model.layers, len(columns)), np.float32)  # [1, L, n]
        gates[:, last] = 1
        read = self._runner.read(
            layout, gates_tensor(gates, layout.adapter_index.device), [ids], unembed=False
        )
        start, end = layout.spans[path]
        assert read.telemetry is not None  # the bank has this site
        z, site = read.telemetry.coded[0, start:end].float(), layout.bank.sites[path]  # [R]
        # Not a product with 0: another column's z may have overflowed.
        parts = [z.where(site.adapter_index == place, 0) for place in range(len(columns))]  # n of [R]
        return np.array([float((own @ site.gram @ own).clamp_min(0).sqrt()) for own in parts], np.float32)

    def _alone(
        self, snapshot: AdapterSnapshot, ids: Sequence[int], columns: list[int], every: bool = False
    ) -> PrefillOutput:
        """One prefill: row 0 the base, row i the i-th column's adapter alone at weight 1, and no others."""
        rows, used = len(columns) + 1, sorted(set(columns))
        layout = snapshot.layout.select(used)
        alone = np.zeros((rows, self._model.layers, len(used)), np.float32)  # [1 + n, L, used]
        for row, column in enumerate(columns, start=1):
            alone[row, :, used.index(column)] = 1
        gates = gates_tensor(alone, layout.adapter_index.device)
        return self._runner.read(layout, gates, [ids] * rows, unembed=False, every=every)
