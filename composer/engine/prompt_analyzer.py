"""The statistics of a prompt that methods need: one prefill, for most of them with a row per adapter."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch

from composer.core.errors import ComposerError
from composer.engine.adapter_snapshot import AdapterSnapshot
from composer.engine.resolve import ResolvedComposition
from composer.methods import PromptStats
from composer.model.gated_model import GatedModel, gates_tensor
from composer.model.lens import FARTHEST, Lens
from composer.model.logit_mixture import LogitMixture
from composer.model.rank_layout import Layout
from composer.model.runtime.prefill import PrefillOutput
from composer.model.runtime.runner import ModelRunner
from composer.model.runtime.scoring import token_log_probs

# The site whose norms LoGo compares, in the last layer (arXiv 2511.07129, its authors' code).
QUERY = "self_attn.q_proj"
# 1 - cosine of an adapter whose numbers overflow: the largest distance there is.
OPPOSITE = 2.0
# The statistics that are one number an adapter, and not one in each layer.
NOT_BY_LAYER = ("query_norm", "likelihood", "next_token")
# The probability that likely words have together (arXiv 2406.17563, its authors' code).
LIKELY = 0.95
# Prompts whose divergences are kept.
KEPT_PROMPTS = 256


class PromptAnalyzer:
    """Computes the fields of PromptStats. Holds only the base."""

    def __init__(self, model: GatedModel, runner: ModelRunner[Any]):
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
            shape = (lanes,) if name in NOT_BY_LAYER else (self._model.layers, lanes)
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
        with `every` in the mean over its tokens.

        The last prompts' are kept for as long as the adapters are: people press Generate again and again.
        """
        known = snapshot.layout.select(sorted(set(columns))).once(_read_before)
        key = tuple(ids), tuple(columns), norm, every
        if key not in known:
            known[key] = self._divergence(snapshot, ids, columns, norm, every)
            if len(known) > KEPT_PROMPTS:
                known.popitem(last=False)
        known.move_to_end(key)
        return known[key].copy()

    def _divergence(
        self, snapshot: AdapterSnapshot, ids: Sequence[int], columns: list[int], norm: bool, every: bool
    ) -> np.ndarray:
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
        if path is None or not layout.bank.sites[path].rank:
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
        gram, owner = site.gram.to(z.device), site.adapter_index.to(z.device)
        # Not a product with 0: another column's z may have overflowed.
        parts = [z.where(owner == place, 0) for place in range(len(columns))]  # n of [R]
        return np.array([float((own @ gram @ own).clamp_min(0).sqrt()) for own in parts], np.float32)

    def likelihood(self, snapshot: AdapterSnapshot, ids: Sequence[int], columns: list[int]) -> np.ndarray:
        """The mean log-likelihood of the tokens after the first under each column's adapter alone; [n] nats.

        0 for a single token. Raises ComposerError where the numbers overflow.
        """
        if len(ids) < 2:
            return np.zeros(len(columns), np.float32)
        count = len(snapshot.bank.names)
        alone = np.zeros((len(columns), self._model.layers, count), np.float32)  # [n, L, N]
        for row, column in enumerate(columns):
            alone[row, :, column] = 1
        rows = [LogitMixture.one(own) for own in alone]
        read = token_log_probs(self._model, snapshot.layout, [ids] * len(rows), rows)
        return np.array([own.mean() for own in read], np.float32)

    def next_token(self, snapshot: AdapterSnapshot, ids: Sequence[int], columns: list[int]) -> np.ndarray:
        """KL of the base's next token from that with each column's adapter alone; [n] nats.

        Over the words that are likely in either of the two, whose probabilities are scaled to sum to 1.
        """
        read = self._alone(snapshot, ids, columns, unembed=True)
        assert read.logits is not None
        return divergence_of_likely(read.logits.float(), LIKELY).cpu().numpy()

    def _alone(
        self,
        snapshot: AdapterSnapshot,
        ids: Sequence[int],
        columns: list[int],
        every: bool = False,
        unembed: bool = False,
    ) -> PrefillOutput:
        """One prefill: row 0 the base, row i the i-th column's adapter alone at weight 1, and no others."""
        rows, used = len(columns) + 1, sorted(set(columns))
        layout = snapshot.layout.select(used)
        alone = np.zeros((rows, self._model.layers, len(used)), np.float32)  # [1 + n, L, used]
        for row, column in enumerate(columns, start=1):
            alone[row, :, used.index(column)] = 1
        gates = gates_tensor(alone, layout.adapter_index.device)
        return self._runner.read(layout, gates, [ids] * rows, unembed=unembed, every=every)


def _read_before(layout: Layout) -> OrderedDict[Hashable, np.ndarray]:
    """Divergences [L, n] that were read under a layout: none yet."""
    return OrderedDict()


def divergence_of_likely(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """KL(p || q_i) in nats over the words in the top-p of p or of q_i, p from row 0; [1 + n, V] -> [n].

    A word is in the top-p where those before it have less than top_p together. An adapter whose numbers
    overflow is as far from the base as can be told.
    """
    order = logits.argsort(dim=-1, descending=True)  # [1 + n, V]
    chance = logits.softmax(dim=-1)
    before = chance.gather(1, order).cumsum(dim=-1) - chance.gather(1, order)
    likely = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, order, before <= top_p)
    either = likely[:1] | likely[1:]  # [n, V]
    p, q = (rows.masked_fill(~either, -math.inf).log_softmax(dim=-1) for rows in (logits[:1], logits[1:]))
    apart = (p.exp() * (p - q)).masked_fill(~either, 0)  # [n, V]
    return apart.sum(dim=-1).nan_to_num(nan=FARTHEST).clamp(0, FARTHEST)
