"""Arrow and SpectR the long way: dense deltas, their full decompositions, hooks on the base's own layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from composer.adapters.bank import SiteFactors
from composer.engine.engine import Engine


class ByHand(NamedTuple):
    """logits: of every token, [T, V]. contribution: at the last token, [L, N]."""

    logits: torch.Tensor
    contribution: np.ndarray


def dense(site: SiteFactors, adapter: int) -> torch.Tensor:
    """B A of one adapter without its scaling, [d_out, d_in] float64."""
    own = site.adapter_index == adapter
    return site.B[:, own].double() @ site.A[own].double()


def by_hand(
    engine: Engine,
    ids: Sequence[int],
    weights: Mapping[str, float],
    blend: float = 1.0,
    unit: bool = True,
    heard: Sequence[str] | None = None,
    by_norm: bool = False,
    top: int | None = None,
) -> ByHand:
    """One uncached pass over the tokens. heard: the adapters whose output is added (None: all of them).

    by_norm: SpectR's score in the place of Arrow's. top: how many of the scores count.
    """
    added = np.zeros((engine.model.layers, len(engine.names)))
    base = np.zeros(engine.model.layers)

    def add(path: str, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        site, layer = engine.snapshot.bank.sites[path], engine.model.layer_of[path]
        here = [
            name
            for name in weights
            if weights[name] and (site.adapter_index == engine.names.index(name)).any()
        ]
        deltas = {name: dense(site, engine.names.index(name)) for name in here}
        base[layer] += float(out[0, -1].double().square().sum())
        if not here:
            return out
        score = torch.stack([_score(site, engine.names.index(name), x, by_norm) for name in here])
        if top is not None and top < len(here):
            least = score.sort(dim=0, descending=True).values[top - 1]
            score = score.masked_fill(score < least, float("-inf"))
        shares = score.softmax(dim=0)  # [n, 1, T]
        for (name, delta), share in zip(deltas.items(), shares, strict=True):
            column = engine.names.index(name)
            scale = float(site.scaling[site.adapter_index == column][0])
            factor = 1 - blend + blend * share * (len(here) if unit else 1)  # [1, T]
            y = weights[name] * scale * factor[..., None] * (x.double() @ delta.T)  # [1, T, d_out]
            if heard is None or name in heard:
                added[layer, column] += float(y[0, -1].square().sum())
                out = out + y.to(out.dtype)
        return out

    hooks = [
        engine.base.model.get_submodule(path).base.register_forward_hook(
            lambda _, args, out, path=path: add(path, args[0], out)
        )
        for path in engine.snapshot.bank.sites
    ]
    try:
        logits = engine.model(None, input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
    finally:
        for hook in hooks:
            hook.remove()
    return ByHand(logits, np.sqrt(added) / np.sqrt(base)[:, None])


def _score(site: SiteFactors, adapter: int, x: torch.Tensor, by_norm: bool) -> torch.Tensor:
    """[1, T]. x: [1, T, d_in]."""
    delta = dense(site, adapter)
    if not by_norm:
        return (x.double() @ torch.linalg.svd(delta).Vh[0]).abs()
    scale = float(site.scaling[site.adapter_index == adapter][0])
    return (scale * x.double() @ delta.T).norm(dim=-1)
