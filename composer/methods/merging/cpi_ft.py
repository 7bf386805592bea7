"""Core isolation: CPI-FT (arXiv 2508.21741, known second-hand) carried over from whole models to LoRA deltas.

CPI-FT merges fine-tuned models: each keeps the parameters it changed most, the others are merged on the
sphere. Here a model is a delta, and its source is silent on much, so that these choices are this project's:

- the core region is taken per site, not over the whole adapter: every site is merged, and one at a time;
- an entry in several core regions goes, whole, to the adapter whose value there is the largest;
- CPI-FT merges into the model of its last training stage; here there is none, so the adapters are merged
  with each other, one after the other in the order given, the entries of any core left out;
- omega is not published: the k-th adapter takes part with 1/k, as in a running mean. Two count alike; of
  more, the later count for a little less where they are at right angles (0.61, 0.61, 0.5 for three);
- spherical interpolation is per site, on lengths as they are; nearly parallel or opposite ones, where it
  divides by almost 0, are interpolated on the line; a zero delta has no direction and takes no part;
- grouping by overlap and training in stages with frozen cores is for training, and has no counterpart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch

from composer.adapters.bank import Adapter
from composer.methods.merging.base import Merge, Merged, Options
from composer.methods.merging.dense import largest, through_deltas

NEARLY_PARALLEL = 0.9995  # |cosine|; the sines that SLERP divides by are below 0.032 from here


class Isolated(NamedTuple):
    """merged: [d_out, d_in]. overlaps: the Jaccard similarity of every pair of core regions."""

    merged: torch.Tensor
    overlaps: list[float]


def isolate(deltas: list[torch.Tensor], share: float, omega: float | None = None) -> Isolated:
    """Each delta's core entries as they are, the rest merged on the sphere. deltas: N of [d_out, d_in]."""
    stack = torch.stack(deltas)  # [N, d_out, d_in]
    cores = torch.stack([largest(delta, share) for delta in deltas])  # [N, d_out, d_in] bool
    anyone = cores.any(dim=0)  # [d_out, d_in] bool
    merged = _on_the_sphere(stack.masked_fill(anyone, 0), omega)
    claims = stack[:, anyone] * cores[:, anyone]  # [N, K]
    merged[anyone] = claims.gather(0, claims.abs().argmax(dim=0, keepdim=True))[0]
    return Isolated(merged, [_jaccard(one, two) for one, two in combinations(cores, 2)])


def slerp(a: torch.Tensor, b: torch.Tensor, omega: float) -> torch.Tensor:
    """From a (omega 0) to b (omega 1) along the arc between them; a and b of one shape, neither zero."""
    cosine = float((a / a.norm() * (b / b.norm())).sum())
    if abs(cosine) > NEARLY_PARALLEL:
        return torch.lerp(a, b, omega)
    angle = math.acos(cosine)
    return (math.sin((1 - omega) * angle) * a + math.sin(omega * angle) * b) / math.sin(angle)


def _on_the_sphere(rest: torch.Tensor, omega: float | None) -> torch.Tensor:
    """rest: [N, d_out, d_in] -> [d_out, d_in]."""
    pointing = [own for own in rest if own.any()]
    merged = pointing[0].clone() if pointing else torch.zeros_like(rest[0])
    for count, own in enumerate(pointing[1:], start=2):
        merged = slerp(merged, own, 1 / count if omega is None else omega)
    return merged


def _jaccard(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one & two).sum() / (one | two).sum().clamp_min(1))


def _core(adapters: Sequence[Adapter], weights: Sequence[float], options: Options) -> Merged:
    overlaps: list[float] = []
    assert options.core is not None
    core = options.core

    def rule(deltas: list[torch.Tensor]) -> torch.Tensor:
        isolated = isolate(deltas, core, options.omega)
        overlaps.extend(isolated.overlaps)
        return isolated.merged

    made = through_deltas(adapters, weights, options, rule)
    if not overlaps:
        return made
    # Two regions that know nothing of each other share core^2 of the entries and cover 2 core - core^2.
    chance = core / (2 - core)
    notes = {**made.notes, "jaccard": sum(overlaps) / len(overlaps), "chance": chance}
    return Merged(made.adapter, notes, made.energy)


CORE = Merge("core", _core, {"core": 0.01})
