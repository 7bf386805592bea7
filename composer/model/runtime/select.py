"""Selects the runner of a base."""

from __future__ import annotations

import logging

from composer.core.errors import ComposerError
from composer.model.architectures import architectures
from composer.model.gated_model import GatedModel
from composer.model.placement import in_words
from composer.model.runtime.native.runner import NativeRunner
from composer.model.runtime.runner import ModelRunner, TransformersRunner

log = logging.getLogger(__name__)

WEIGHTS = ("same", "float32", "int8")


def select_runner(model: GatedModel, weights: str = "same") -> ModelRunner:
    """The fastest runner that fits the base. The log says why where it is that of transformers' modules.

    weights: what decoding reads, see composer.model.runtime.native.tables.STORES. Raises ComposerError for
    another word, and for other than "same" where no step is compiled that could read it.
    """
    if weights not in WEIGHTS:
        raise ComposerError(
            f"Decoding weights are {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}, not {str(weights)[:40]!r}."
        )
    # Their passes read every layer's weights on one device.
    family = None if model.spread else next((each for each in architectures() if each.fits(model)), None)
    if weights != "same" and (family is None or model.quantised or not NativeRunner.fits(model)):
        raise ComposerError(
            f"{weights} decoding needs an unquantised float32 base of the family Llama, Mistral, Qwen2, "
            "Qwen3 or Gemma3, on a CPU; leave the option out for this one."
        )
    if family is None:
        reasons = [each.why_not(model) for each in architectures() if each.why_not is not None]
        if model.spread:
            reasons = [f"its parts are on several devices ({in_words(model.model)})"]
        log.info(
            "the base runs through transformers' modules, which is slower: %s",
            "; ".join(filter(None, reasons)) or "no architecture fits it",
        )
        return TransformersRunner(model)
    return family.make(model, weights)
