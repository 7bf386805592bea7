"""How PEFT and transformers map an adapter's names to a base.

Both libraries are called; nothing is listed here.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from functools import partial

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from composer.adapters.fit.tensors import BaseNames

log = logging.getLogger(__name__)


def base_names(model: PreTrainedModel) -> BaseNames:
    """What `model`, a causal language model of transformers, knows; see BaseNames."""
    kind = getattr(model.config, "model_type", None)
    mapped = get_checkpoint_conversion_mapping(kind) is not None
    renamed = partial(_renamed, model) if mapped else _as_they_are
    return BaseNames(renamed, partial(_usual, kind), _aside(model))


def _as_they_are(names: Collection[str]) -> Mapping[str, str]:
    return {}


def _renamed(model: PreTrainedModel, names: Collection[str]) -> Mapping[str, str]:
    """As PEFT's loader renames them: it is given empty tensors, so that nothing is computed."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers

    empty = {name: torch.empty(1, 1, device="meta") for name in names}
    config = LoraConfig(target_modules=[])
    try:
        found = convert_peft_adapter_state_dict_for_transformers(model, config, dict(empty), "default")
    except Exception:  # whatever a stranger's names set off in there
        log.exception("the names of an adapter's tensors could not be mapped")
        return {}
    place = {id(tensor): name for name, tensor in empty.items()}
    # What PEFT makes of several tensors is none of them, and stays under the name that it had.
    return {place[id(tensor)]: name for name, tensor in found.items() if id(tensor) in place}


def _usual(kind: str | None) -> Collection[str]:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    return USUAL.get(kind, ()) if kind else ()


def _aside(model: PreTrainedModel) -> frozenset[str]:
    """Linear layers outside the text decoder, but for the output layer."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    own = next((name for name, module in model.named_modules() if module is decoder), "")
    inside = f"{own}." if own else ""
    return frozenset(
        name
        for name, module in model.named_modules()
        if hasattr(module, "in_features") and module is not head and not name.startswith(inside)
    )
