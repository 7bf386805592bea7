"""Dynamic activation composition: an adapter counts where it still changes what comes next."""

from __future__ import annotations

import numpy as np

from composer.methods.base import GateInputs, gate_method
from composer.methods.output_sums import weighted_sum

# The most that a_i is. In the source it is 2, of steering vectors that are measured at 2; an adapter is
# measured at the strength that it was trained for: two of them at twice that write no sentences.
MOST = 1.0


@gate_method(
    name="dynamic",
    label="Dynamic composition (per token)",
    help="Before every token, each adapter counts for as much as it alone would change the next token.",
    formula="g_i = w_i ((1-t) + t·a_i), a_i = min(1, KL(p_0 ‖ p_i)) in nats at the token to come, p_i with "
    "adapter i alone at weight 1, both over the words that either has in its top-p 0.95; N+1 runs over all "
    "that is written, for every token",
    source="Dynamic Activation Composition, Scalena et al. 2024, arXiv 2406.17563 (from its authors' "
    "released code, of steering vectors, with 2 in the place of both 1's, which also divides by the number "
    "of words; that adapters take their place, and that they read the prompt too, is ours)",
    family="Each token decides",
    parameters=("blend",),
    prompt_stats=("next_token",),
    every_token=True,
)
def DYNAMIC(inputs: GateInputs) -> np.ndarray:
    measured = inputs.prompt.next_token
    assert measured is not None
    blend = inputs.composition.blend
    return weighted_sum(inputs) * ((1 - blend) + blend * np.minimum(measured, MOST))  # [L, N]
