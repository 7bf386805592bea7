"""Model families that have a runner of their own. All others run through transformers' modules."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from composer.core.plugins import plugins
from composer.model.gated_model import GatedModel
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.runtime.llama.families import why_not
from composer.model.runtime.llama.runner import LlamaRunner
from composer.model.runtime.native.runner import NativeRunner
from composer.model.runtime.runner import ModelRunner

log = logging.getLogger(__name__)

# Other packages name an Architecture under it in their entry points.
GROUP = "composer.architectures"


@dataclass(frozen=True)
class Architecture:
    """A family and the runner that is faster for it than transformers' modules.

    What the runner computes is compared with transformers' own when a base is loaded. Where they differ, the
    modules take its place; see composer.model.runtime.proof.
    """

    name: str
    # Whether a base is of this family, without extras that the runner leaves out.
    fits: Callable[[GatedModel], bool]
    # The runner of a base. The second argument is what decoding reads: "same" or "int8".
    make: Callable[[GatedModel, str], ModelRunner]
    # Why it does not fit a base, as the end of a sentence for the log; None where it does.
    why_not: Callable[[GatedModel], str | None] | None = None


def _llama(model: GatedModel, weights: str) -> ModelRunner:
    if model.device.type == "cuda":
        return CudaGraphRunner(LlamaRunner(model, "same"))
    if reason := NativeRunner.why_not(model):
        log.info("the base decodes without the compiled step, which is slower: %s", reason)
        return LlamaRunner(model, "same")
    # It reads prompts, whose many tokens gain nothing from joined factors.
    return NativeRunner(LlamaRunner(model, "same", joined=False), weights)


LLAMA = Architecture("llama", lambda model: why_not(model) is None, _llama, why_not)


@cache
def architectures() -> tuple[Architecture, ...]:
    """This project's own, then those of other packages."""
    return (LLAMA, *plugins(GROUP, Architecture))
