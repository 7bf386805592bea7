"""Rules whose gates are set per token and site; see composer.model.runtime.token_routing."""

from __future__ import annotations

from composer.methods.base import Method
from composer.methods.output_sums import SUM

ARROW = Method(
    name="arrow",
    label="Arrow (per token)",
    help="At every token and site, the adapter whose main direction the token points along counts most.",
    family="Each token decides",
    source="Ostapenko et al. 2024, arXiv 2405.11157 (from PEFT's released router: plain dot products, "
    "temperature 1; here all adapters that take part are kept, where PEFT keeps 3)",
    rule=SUM.rule,
    parameters=("blend", "scale"),
    token_routed=True,
)
