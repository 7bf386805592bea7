"""KL fusion with a way back: its weights only where the layers agree, else the plain sum.

LiST deploys weights found for a prompt only if an acceptance rule passes, and falls back to its prior else;
its own rule is not known to us. Here the weights are accepted where one and the same adapter has the largest
share in at least `accept` of the layers that decide (see UNDECIDED). Of two adapters one always leads in half
of them; of the bundled ones it does in 0.5 to 0.75, by the prompt, and about half of the prompts pass 0.6.
"""

from __future__ import annotations

import numpy as np

from composer.core.results import UNDECIDED
from composer.methods.adaptive import QA_FLORA, kl_gates
from composer.methods.base import GateInputs, gate_method
from composer.methods.output_sums import weighted_sum


def agreement(kl: np.ndarray, active: np.ndarray) -> float:
    """The share of the deciding layers that the adapter which leads in most of them has; 0 if none decides.

    kl: [L, N] nats. active: [N] bool.
    """
    own = np.where(active, kl.astype(np.float64), 0.0)  # [L, N]
    leaders = own[own.sum(axis=1) >= UNDECIDED].argmax(axis=1)
    return float(np.bincount(leaders).max() / len(leaders)) if len(leaders) else 0.0


@gate_method(
    name="kl-or-sum",
    label="KL fusion, else the sum",
    help="KL fusion's shares if the same adapter leads in most layers, else the plain sum.",
    formula="KL fusion's gates if one adapter has the largest kl_i in at least the accepted share of the "
    "layers, else g_i = w_i",
    source=f"this project: the fallback of LiST, arXiv 2608.22370 (known from its abstract), on {QA_FLORA}",
    family="Prompt decides",
    parameters=("blend", "scale", "norm", "tokens", "live", "accept"),
    prompt_stats=("kl",),
)
def KL_OR_SUM(inputs: GateInputs) -> np.ndarray:
    kl = inputs.prompt.kl
    assert kl is not None
    accepted = agreement(kl, inputs.active) >= inputs.composition.accept
    return kl_gates(inputs) if accepted else weighted_sum(inputs)  # [L, N]
