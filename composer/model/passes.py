"""Which decoding pass a base gets."""

from __future__ import annotations

from composer.model.inject import GatedModel
from composer.model.llama import LlamaPass
from composer.model.step import ModulePass, Pass


def decode_pass(model: GatedModel, weights: str = "same") -> Pass:
    """The fastest pass that fits the base. weights: "same" as the base's, or "int8" (Llama family only)."""
    return LlamaPass(model, weights) if LlamaPass.fits(model) else ModulePass(model)
