"""How likely the base finds a continuation of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from composer.engine import Engine
from composer.study.metrics import perplexity


def perplexities(engine: Engine, texts: Sequence[tuple[str, str]]) -> list[float | None]:
    """Of each (prompt, continuation), under the base; the prompt's own tokens do not count."""
    scores = engine.log_probs([prompt + continuation for prompt, continuation in texts])
    # log_probs starts at the second token, so the continuation starts one before the prompt's length.
    starts = [engine.count_tokens(prompt) - 1 for prompt, _ in texts]
    return [perplexity(score[start:]) for score, start in zip(scores, starts, strict=True)]
