"""Merges as methods: several adapters become one, which is then added like any other.

Names and words are here, the computation is in composer.methods.merging. With one adapter there is nothing
to merge: it is added as it is.
"""

from __future__ import annotations

from composer.methods.base import Method
from composer.methods.output_sums import LORANDI, weighted_sum

PEFT = "Hugging Face PEFT, add_weighted_adapter, combination_type"
DARE = "Yu et al., DARE, ICML 2024, arXiv 2311.03099"


def merge_method(name: str, label: str, help: str, formula: str, source: str, *parameters: str) -> Method:
    """A method that merges by the rule of this name in composer.methods.merging.MERGES."""
    return Method(
        name,
        label,
        help,
        formula,
        source,
        weighted_sum,
        parameters,
        family="Merged weights",
        merge=name,
    )


FACTOR_AVERAGE = merge_method(
    "factor-average",
    "Factor average (W-a)",
    "Averages the A's and the B's separately, so that each B also meets the others' A: the weakest sum.",
    "(mean of B_i)(mean of A_i), each factor times the root of w_i s_i",
    f"one reading of WeightsAverage in {LORANDI}, formula inferred; where scalings or weights differ, their "
    "roots go into the factors as in PEFT's linear",
)
DELTA_AVERAGE = merge_method(
    "delta-average",
    "Delta average (W-b)",
    "The mean of the changes: the sum's direction at 1/N of its strength.",
    "(1/N) Σ w_i s_i B_i A_i",
    f"the other reading of WeightsAverage in {LORANDI}, formula inferred",
    "rank",
)
LINEAR = merge_method(
    "linear",
    "PEFT linear",
    "Adds the A's and the B's separately, as PEFT does: every adapter's B also meets every other's A.",
    "(Σ B_i)(Σ A_i), each factor times the root of w_i s_i",
    f"{PEFT} linear",
)
CAT = merge_method(
    "cat",
    "Exact concatenation",
    "All adapters side by side as one: the sum of outputs, kept exactly.",
    "one adapter with Σ w_i s_i B_i A_i, the ranks side by side",
    f"{PEFT} cat",
)
SVD = merge_method(
    "svd",
    "SVD to a rank",
    "The sum, cut to its leading singular directions; at the summed rank it is the sum.",
    "Σ w_i s_i B_i A_i, cut to a rank (usual: the largest adapter's)",
    f"{PEFT} svd (usual rank: the largest adapter's)",
    "rank",
)
MAGNITUDE = merge_method(
    "magnitude",
    "Magnitude prune",
    "Keeps the largest entries of each adapter's change and sums them.",
    "of each w_i s_i B_i A_i the largest entries (usual: 20%); their sum",
    "Hugging Face PEFT, magnitude_prune, on the delta; usual density as in TIES",
    "density",
    "rank",
)
TIES = merge_method(
    "ties",
    "TIES",
    "Keeps each change's largest entries, elects a sign per entry, averages those that agree with it.",
    "of each w_i s_i B_i A_i the largest entries (usual: 20%); per entry the mean of those that agree with "
    "the sign of the sum",
    "Yadav et al., TIES-Merging, NeurIPS 2023, arXiv 2306.01708 (top 20 percent kept), on the delta",
    "density",
    "rank",
)
DARE_LINEAR = merge_method(
    "dare-linear",
    "DARE, linear",
    "Drops entries of each change at random, rescales the rest to make up for it, and sums.",
    "of each w_i s_i B_i A_i a random share of the entries (usual: 80%), divided by it; their sum",
    f"{DARE}, on the delta (drop rate 0.2, as in its code's examples of merging language models)",
    "density",
    "rank",
)
DARE_TIES = merge_method(
    "dare-ties",
    "DARE, TIES",
    "Drops entries of each change at random, then elects a sign and averages those that agree.",
    "as DARE linear, with the sign election of TIES in the place of the sum",
    f"{DARE}, then the vote of TIES, arXiv 2306.01708, on the delta",
    "density",
    "rank",
)
SVC = merge_method(
    "svc",
    "SVC (calibrated sum)",
    "The sum, with directions that several adapters share divided by how often they are counted.",
    "Σ w_i s_i B_i A_i = U σ Vᵀ, σ_k ← σ_k / mean_i max(floor, ⟨a, a_i⟩ / ‖a_i‖²), a = u_kᵀ of the sum, "
    "a_i = u_kᵀ w_i s_i B_i A_i (usual floor: 1)",
    "SVC, ICML 2026, arXiv 2602.05536 (from its authors' released code; there of averages and scaled sums, "
    "here of the plain sum)",
    "floor",
)
CORE = merge_method(
    "core",
    "Core isolation (CPI-FT)",
    "Keeps each adapter's most changed entries, merges the rest on the sphere, cuts that to the rank.",
    "per entry: the value of the adapter in whose largest 1% it is; elsewhere spherical interpolation",
    "Wang, Liang & Peng, CPI-FT, EMNLP 2025, arXiv 2508.21741 (formulas known second-hand), carried over to "
    "LoRA deltas by this project",
    "core",
    "omega",
    "rank",
)
