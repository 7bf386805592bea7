"""How likely the base finds a continuation of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from composer.adapters.bank import AdapterBank
from composer.engine.engine import Engine
from composer.evaluation.metrics import perplexity
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.scoring import token_log_probs


def perplexities(engine: Engine, texts: Sequence[tuple[str, str]]) -> list[float | None]:
    """Of each (prompt, continuation), under the base; the prompt's own tokens do not count.

    Raises ComposerError for a text that is longer than the base can read.
    """
    base = engine.base
    encoded = [base.encode("".join(text), base.context) for text in texts]
    # A bank without adapters: at gate 0 their products would be worked out all the same.
    bare = LogitMixture.one(np.zeros((engine.model.layers, 0), np.float32))
    scores = token_log_probs(engine.model, engine.model.layout(AdapterBank()), encoded, [bare] * len(texts))
    starts = [continuation_start(engine, prompt) for prompt, _ in texts]
    return [perplexity(score[start:]) for score, start in zip(scores, starts, strict=True)]


def continuation_start(engine: Engine, prompt: str) -> int:
    """Where a continuation of the prompt begins among a text's log probabilities, which start at its second
    token."""
    return max(engine.base.count_tokens(prompt) - 1, 0)
