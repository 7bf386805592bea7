"""Rules on the logits: each adapter runs alone, and what it changes in the next token's logits is added."""

from __future__ import annotations

from composer.methods.base import Method
from composer.methods.output_sums import CONTRAST, SUM

DEXPERTS = "DExperts, Liu et al. 2021, arXiv 2105.03023, without its filter of the base's own nucleus"

LOGITS = Method(
    name="logits",
    label="Logit sum (proxy-tuning)",
    help="Adds what each adapter alone changes in the next token's logits: they meet nowhere else.",
    family="Logits",
    source=f"proxy-tuning, Liu et al. 2024, arXiv 2401.08565; {DEXPERTS}; of several adapters: this project",
    rule=SUM.rule,
    apart=True,
)

LOGITS_CONTRAST = Method(
    name="logits-contrast",
    label="Logit contrast (DExperts)",
    help="Logit sum, against the opposites of what you ask for: experts and anti-experts.",
    family="Logits",
    source=DEXPERTS,
    # l_i - c mean_j l_j - (1 - c) l_0 takes from the opposites' share what contrast takes from their gates.
    rule=CONTRAST.rule,
    parameters=CONTRAST.parameters,
    apart=True,
)
