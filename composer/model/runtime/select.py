"""Selects the runner of a base."""

from __future__ import annotations

from composer.core.errors import ComposerError
from composer.model.architectures import architectures
from composer.model.gated_model import GatedModel
from composer.model.runtime.runner import ModelRunner, TransformersRunner

WEIGHTS = ("same", "int8")


def select_runner(model: GatedModel, weights: str = "same") -> ModelRunner:
    """The fastest runner that fits the base.

    weights: what decoding reads, "same" as the base's or "int8". Raises ComposerError for another word, and
    for int8 with a base outside the families of composer.model.architectures or already quantised.
    """
    if weights not in WEIGHTS:
        raise ComposerError(f"Decoding weights are {' or '.join(WEIGHTS)}, not {str(weights)[:40]!r}.")
    family = next((each for each in architectures() if each.fits(model)), None)
    if weights == "int8" and (family is None or model.quantised):
        raise ComposerError(
            "int8 decoding needs an unquantised base of the Llama family; leave the option out for this one."
        )
    return TransformersRunner(model) if family is None else family.make(model, weights)
