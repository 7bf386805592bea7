"""Weights by the prompt's perplexity under each adapter alone."""

from __future__ import annotations

import numpy as np

from composer.methods.adaptive import shared
from composer.methods.base import GateInputs, gate_method


@gate_method(
    name="perplexity",
    label="Perplexity weights",
    help="One share per adapter in all layers: the likelier it finds your prompt, the larger.",
    formula="as KL fusion, with 1 / perplexity_i of the prompt under adapter i alone in the place of kl_i "
    "(α = softmax of the mean log-likelihood), the same in all layers",
    source="this project, after TriMix, ACL 2026, arXiv 2604.18106, which picks the weights of three models' "
    "logits by the perplexity of their mixture, and in its released code once for a task",
    family="Prompt decides",
    parameters=("blend", "scale", "live"),
    prompt_stats=("likelihood",),
)
def PERPLEXITY(inputs: GateInputs) -> np.ndarray:
    measured = inputs.prompt.likelihood
    assert measured is not None
    # Relative to the likeliest, so that none is too small to count.
    best = measured[inputs.active].max(initial=-np.inf)
    share = np.exp(np.minimum(measured - best, 0.0)) if inputs.active.any() else measured  # [N]
    return shared(inputs, np.tile(share, (inputs.layers, 1)))
