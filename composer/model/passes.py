"""Which decoding pass a base gets."""

from __future__ import annotations

from composer.model.graphs import GraphPass
from composer.model.inject import GatedModel
from composer.model.llama import LlamaPass
from composer.model.step import ModulePass, Pass
from composer.spec import ComposerError

WEIGHTS = ("same", "int8")


def decode_pass(model: GatedModel, weights: str = "same") -> Pass:
    """The fastest pass that fits the base.

    weights: what decoding reads, "same" as the base's or "int8". Raises ComposerError for another word, and
    for int8 with a base outside the Llama family or already quantised.
    """
    if weights not in WEIGHTS:
        raise ComposerError(f"Decoding weights are {' or '.join(WEIGHTS)}, not {str(weights)[:40]!r}.")
    fits = LlamaPass.fits(model)
    if weights == "int8" and (not fits or model.quantised):
        raise ComposerError(
            "int8 decoding needs an unquantised base of the Llama family; leave the option out for this one."
        )
    if not fits:
        return ModulePass(model)
    decode = LlamaPass(model, weights)
    return GraphPass(decode) if model.device.type == "cuda" and not model.quantised else decode
