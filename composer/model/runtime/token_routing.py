"""Gates that every token shares out anew at every site, by a score of each adapter.

    share_i = softmax_i score_i

over the adapters that take part and have the site, or over the `top` of them with the largest scores. Both
scores are read off the rank-sized product x A^T that the gate makes anyway: nothing of size d_in or d_out is
kept or made per token.

direction (Arrow): |x . v_i|, v_i the top right singular vector of B_i A_i. v_i = A_i^T c_i (Site.prototype).
Ostapenko et al. 2024, arXiv 2405.11157; the dot product as it is, without norms, as PEFT's router has it.

norm (SpectR): |s_i B_i A_i x|, from z = A_i x and the Gram matrix of B_i: the root of z^T B_i^T B_i z.
Fleshman & Van Durme 2025, arXiv 2504.03454.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from composer.model.rank_layout import Layout
from composer.model.runtime.llama.layer import TokenFactor


@dataclass(frozen=True)
class RouterConfig:
    """How a row's gates are shared out: times (1 - blend) + blend * share_i * (n if unit else 1), with n the
    adapters that take part at the site.
    """

    # [N] bool, which adapters take part. Other gates stay as they are.
    part: np.ndarray
    blend: float
    unit: bool
    # Whether the score is the norm of what the adapter adds, or along its main direction.
    by_norm: bool = False
    # How many adapters have a share at a token and site; None: all that take part.
    top: int | None = None

    def select(self, columns: Sequence[int]) -> RouterConfig:
        """Over these adapters alone. Those that it does not know take no part."""
        known = np.zeros(max((*columns, len(self.part) - 1)) + 1, bool)
        known[: len(self.part)] = self.part
        return replace(self, part=known[list(columns)])


@dataclass(frozen=True)
class TokenRouter:
    """The routes of B rows under a layout with S sites. A row without one is multiplied by 1, to the bit."""

    layout: Layout
    # Where a site's columns begin on Z (and where the last one's end) -> its place.
    first: Mapping[int, int]
    # Which adapters take part at which site, [B, S, N].
    part: torch.Tensor
    # The factor is keep + swing * share; [B, 1, 1] and [B, S, 1].
    keep: torch.Tensor
    swing: torch.Tensor
    # Which rows score by norm, [B, 1, 1] bool.
    by_norm: torch.Tensor
    # Whether any row scores by norm, and whether any does by direction.
    norms: bool
    directions: bool
    # How many adapters have a share, [B, 1, 1]; None: in every row all that take part.
    top: torch.Tensor | None

    @classmethod
    def of(cls, layout: Layout, routes: Sequence[RouterConfig | None]) -> TokenRouter | None:
        """routes: a row's each; adapters that a route does not know yet take no part in it. None where no row
        is routed."""
        if not any(routes) or not layout.spans:
            return None
        device, count = layout.adapter_index.device, len(layout.bank.names)
        part = np.zeros((len(routes), 1, count), bool)  # [B, 1, N]
        for own, route in zip(part, routes, strict=True):
            if route is not None:
                own[0, : len(route.part)] = route.part
        blend = torch.tensor([route.blend if route else 0.0 for route in routes], device=device)
        unit = torch.tensor([route is not None and route.unit for route in routes], device=device)
        blend, unit = blend[:, None, None], unit[:, None, None]  # [B, 1, 1]
        norm = [route is not None and route.by_norm for route in routes]
        tops = [route.top or count if route else count for route in routes]
        taking = torch.from_numpy(part).to(device) & layout.present  # [B, S, N]
        swing = blend * torch.where(unit, taking.sum(dim=2, keepdim=True), 1)  # [B, S, 1]
        starts = (0, *(end for _, end in layout.spans.values()))
        return cls(
            layout,
            {start: place for place, start in enumerate(starts)},
            taking,
            1 - blend,
            swing,
            torch.tensor(norm, device=device)[:, None, None],
            any(norm),
            any(route is not None and not route.by_norm for route in routes),
            torch.tensor(tops, device=device)[:, None, None] if min(tops) < count else None,
        )

    def __call__(
        self, z: torch.Tensor, start: int, end: int, row: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What multiplies the scales of columns [start, end) of Z, which are whole sites'; [M, R] as z.

        z: x A^T of M tokens there. row: whose each token is, [M]; None: token m is row m's.
        """
        if start == end:
            return z
        count, sites = len(self.layout.bank.names), slice(self.first[start], self.first[end])
        part, keep, swing = self.part[:, sites], self.keep, self.swing[:, sites]
        by_norm, top = self.by_norm, self.top
        if row is not None:
            part, keep, swing, by_norm = part[row], keep[row], swing[row], by_norm[row]
            top = None if top is None else top[row]
        here = self.layout.site[start:end] - sites.start  # [R]
        cell = here * count + self.layout.adapter_index[start:end]  # [R]
        # A product with zeros rather than a scattered sum: on a GPU that adds up in no fixed order.
        cells = torch.arange((sites.stop - sites.start) * count, device=cell.device)
        own = (cell[:, None] == cells).float()  # [R, S N]
        score = self._direction(z, own, start, end) if self.directions else None
        if self.norms:
            norm = self._norm(z, own, start, tuple(self.layout.spans)[sites])
            score = norm if score is None else torch.where(by_norm[:, 0], norm, score)
        assert score is not None  # some row is routed
        score = score.unflatten(1, (-1, count)).masked_fill(~part, float("-inf"))  # [M, S, N]
        if top is not None:
            score = score.masked_fill(_places(score) >= top, float("-inf"))
        share = score.softmax(dim=2)
        factor = torch.where(part, keep + swing * share, 1.0)  # where nobody takes part the share is NaN
        return factor.flatten(1)[:, cell].to(z.dtype)

    def _direction(self, z: torch.Tensor, own: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """|x . v_i|, [M, S N]. own: [R, S N], which column is which adapter's at which site."""
        return (z.float() @ (self.layout.prototype[start:end, None] * own)).abs()

    def _norm(self, z: torch.Tensor, own: torch.Tensor, start: int, paths: Sequence[str]) -> torch.Tensor:
        """|s_i B_i A_i x|, [M, S N]. The scaling comes last: of another row's adapter it may be infinite."""
        known = self.layout.once(grams_of)
        grams = [known[path].to(z.device) for path in paths]
        parts = z.float().split([len(gram) for gram in grams], dim=1)  # S of [M, R of the site]
        squares = torch.cat([part @ gram * part for part, gram in zip(parts, grams, strict=True)], dim=1)
        scale = self.layout.scaling[start : start + z.shape[1], None].abs()  # [R, 1]
        scaling = scale.where(own > 0, 0).amax(dim=0)  # [S N]
        return (squares @ own).clamp_min(0).sqrt() * scaling

    def of_layer(self, origin: int, row: torch.Tensor | None = None) -> TokenFactor:
        """The same for a decoder layer, whose part of Z begins at `origin`."""
        return lambda z, start, end: self(z, origin + start, origin + end, row)


def _places(score: torch.Tensor) -> torch.Tensor:
    """How many of the last dimension's scores come before each: those that are larger, and equal ones in
    their order. [..., N] int64.

    Without a sort, which graphs need not be able to record.
    """
    mine, others = score[..., :, None], score[..., None, :]  # [..., N, 1], [..., 1, N]
    first = torch.ones(score.shape[-1], score.shape[-1], dtype=torch.bool, device=score.device).tril(-1)
    return ((others > mine) | ((others == mine) & first)).sum(dim=-1)


def grams_of(layout: Layout) -> dict[str, torch.Tensor]:
    """B^T B of each site, [R, R]."""
    return {path: layout.bank.sites[path].gram for path in layout.spans}
