"""SpectR: every token weights the adapters by how much each would add.

The computation is in composer.model.runtime.token_routing.
"""

from __future__ import annotations

from composer.methods.base import gate_method
from composer.methods.output_sums import SUM

SPECTR = gate_method(
    name="spectr",
    label="SpectR (per token)",
    help="At every token and site, the adapter whose output is the largest counts most.",
    formula="as Arrow, with α = softmax_i ‖s_i B_i A_i x‖ over the adapters with the largest (usual: all)",
    source="SpectR, Fleshman & Van Durme 2025, arXiv 2504.03454 (known from its abstract, formula inferred; "
    "that the scaling s_i counts, and no temperature, is ours)",
    family="Each token decides",
    parameters=("blend", "scale", "top_adapters"),
    token_routed=True,
    by_norm=True,
)(SUM.gate_fn)
