"""Which decoding pass a base gets."""

from __future__ import annotations

from composer.core.errors import ComposerError
from composer.model.gated_model import GatedModel
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.runtime.llama.runner import LlamaRunner
from composer.model.runtime.runner import ModelRunner, TransformersRunner

WEIGHTS = ("same", "int8")


def select_runner(model: GatedModel, weights: str = "same") -> ModelRunner:
    """The fastest pass that fits the base.

    weights: what decoding reads, "same" as the base's or "int8". Raises ComposerError for another word, and
    for int8 with a base outside the Llama family or already quantised.
    """
    if weights not in WEIGHTS:
        raise ComposerError(f"Decoding weights are {' or '.join(WEIGHTS)}, not {str(weights)[:40]!r}.")
    fits = LlamaRunner.fits(model)
    if weights == "int8" and (not fits or model.quantised):
        raise ComposerError(
            "int8 decoding needs an unquantised base of the Llama family; leave the option out for this one."
        )
    if not fits:
        return TransformersRunner(model)
    decode = LlamaRunner(model, weights)
    return CudaGraphRunner(decode) if model.device.type == "cuda" and not model.quantised else decode
