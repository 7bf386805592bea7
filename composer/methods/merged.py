"""Merges as methods: several adapters become one, which is then added like any other.

The words are here and the work is in composer.methods.merging, so that nobody waits for torch to read a list
of names. With one adapter there is nothing to merge: it is added as it is.
"""

from __future__ import annotations

from composer.methods.base import Method
from composer.methods.output_sums import LORANDI, weighted_sum

PEFT = "Hugging Face PEFT, add_weighted_adapter, combination_type"
DARE = "Yu et al., DARE, ICML 2024, arXiv 2311.03099"


def _merge(name: str, label: str, help: str, source: str, *parameters: str) -> Method:
    return Method(name, label, help, source, weighted_sum, parameters, family="Merged weights", merge=name)


FACTOR_AVERAGE = _merge(
    "factor-average",
    "Factor average (W-a)",
    "Averages the A's and the B's apart, so that each B also meets the others' A: the weakest sum.",
    f"one reading of WeightsAverage in {LORANDI}, formula inferred; where scalings or weights differ, their "
    "roots go into the factors as in PEFT's linear",
)
DELTA_AVERAGE = _merge(
    "delta-average",
    "Delta average (W-b)",
    "The mean of the changes: the sum's direction at 1/N of its strength.",
    f"the other reading of WeightsAverage in {LORANDI}, formula inferred",
    "rank",
)
LINEAR = _merge(
    "linear",
    "PEFT linear",
    "Adds the A's and the B's apart, as PEFT does: every adapter's B also meets every other's A.",
    f"{PEFT} linear",
)
CAT = _merge(
    "cat",
    "Exact concatenation",
    "All adapters side by side as one: the sum of outputs, kept exactly.",
    f"{PEFT} cat",
)
SVD = _merge(
    "svd",
    "SVD to a rank",
    "The sum, cut to the directions that carry most of it; at the summed rank it is the sum.",
    f"{PEFT} svd (usual rank: the largest adapter's)",
    "rank",
)
MAGNITUDE = _merge(
    "magnitude",
    "Magnitude prune",
    "Keeps the largest entries of each adapter's change and sums them.",
    "Hugging Face PEFT, magnitude_prune, on the delta; usual density as in TIES",
    "density",
    "rank",
)
TIES = _merge(
    "ties",
    "TIES",
    "Keeps each change's largest entries, lets them vote on the sign, averages those that agree.",
    "Yadav et al., TIES-Merging, NeurIPS 2023, arXiv 2306.01708 (top 20 percent kept), on the delta",
    "density",
    "rank",
)
DARE_LINEAR = _merge(
    "dare-linear",
    "DARE, linear",
    "Drops entries of each change by chance, scales up the rest to make good for it, and sums.",
    f"{DARE}, on the delta (drop rate 0.2, as in its code's examples of merging language models)",
    "density",
    "rank",
)
DARE_TIES = _merge(
    "dare-ties",
    "DARE, TIES",
    "Drops entries of each change by chance, then votes on the sign and averages those that agree.",
    f"{DARE}, then the vote of TIES, arXiv 2306.01708, on the delta",
    "density",
    "rank",
)
CORE = _merge(
    "core",
    "Core isolation (CPI-FT)",
    "Keeps each adapter's most changed entries, merges the rest on the sphere, cuts that to the rank.",
    "Wang, Liang & Peng, CPI-FT, EMNLP 2025, arXiv 2508.21741 (formulas known second-hand), carried over to "
    "LoRA deltas by this project",
    "core",
    "omega",
    "rank",
)
