"""What quantising a base costs: how far its next-token distribution moves, bare and with adapters composed.

The texts are the full base's own greedy continuations under the composition, and both bases read the same
tokens, so nothing is sampled and every position is compared with its twin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from composer.core.composition import Composition, Sampling
from composer.core.document import Block, Paragraph, table
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.evaluation.metrics import Interval, over_prompts
from composer.model.runtime.teacher_forcing import forced

# Texts that are written together.
BATCH = 32


@dataclass(frozen=True)
class QuantizationCost:
    """One composition on both bases; intervals are bootstraps over prompts."""

    name: str
    # Tokens that were compared.
    tokens: int
    # KL(full || quantised) of the next token, nats, the mean over positions.
    kl: Interval
    # How often both find the same token likeliest.
    same: Interval
    # The quantised base's loss minus the full one's on these texts, nats a token.
    loss: Interval
    # KL(composed || bare) on the full base, nats: how far the adapters themselves move the distribution.
    moved: Interval


def quantization_cost(
    full: Engine,
    quantised: Engine,
    compositions: Mapping[str, Composition],
    prompts: Sequence[str],
    length: int = 32,
    progress: Callable[[int], None] = lambda count: None,
) -> list[QuantizationCost]:
    """A line per composition. length: tokens a prompt is continued by.

    progress: is given how many texts have been compared since its last call. Raises ComposerError where the
    two bases do not have the same tokens.
    """
    if full.base.encode("The same text") != quantised.base.encode("The same text"):
        raise ComposerError("These two bases do not read the same tokens; compare two loads of one base.")
    found = []
    for name, composition in compositions.items():
        measured = []
        for prompt, tokens in zip(prompts, _greedy(full, prompts, composition, length), strict=True):
            if tokens:
                measured.append(
                    (prompt, len(tokens), _compared(full, quantised, prompt, tokens, composition))
                )
            progress(1)
        kl, same, loss, moved = (
            over_prompts([(prompt, float(values[index])) for prompt, _, values in measured])
            for index in range(4)
        )
        if kl and same and loss and moved:
            count = sum(tokens for _, tokens, _ in measured)
            found.append(QuantizationCost(name, count, kl, same, loss, moved))
    return found


def _greedy(engine: Engine, prompts: Sequence[str], composition: Composition, length: int) -> list[list[int]]:
    """The likeliest continuation of each prompt, as tokens."""
    sampling = Sampling(max_new_tokens=length, temperature=0, time_limit=3600)
    found: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(prompts), BATCH):
        rows = [(prompt, composition, sampling) for prompt in prompts[start : start + BATCH]]
        for step in engine.generate_rows(rows):
            found[start + step.row].append(step.token)
    return found


def _compared(
    full: Engine, quantised: Engine, prompt: str, tokens: Sequence[int], composition: Composition
) -> tuple[float, float, float, float]:
    """The four means over the text's positions, in the order of QuantizationCost's fields."""
    one, two = (_scores(each, prompt, tokens, composition) for each in (full, quantised))  # [T, V] each
    bare = _scores(full, prompt, tokens, Composition())  # [T, V]
    chances, places = np.exp(one), np.arange(len(tokens))
    return (
        float((chances * (one - two)).sum(axis=1).mean()),
        float((one.argmax(axis=1) == two.argmax(axis=1)).mean()),
        float((one[places, tokens] - two[places, tokens]).mean()),
        float((chances * (one - bare)).sum(axis=1).mean()),
    )


def _scores(engine: Engine, prompt: str, tokens: Sequence[int], composition: Composition) -> np.ndarray:
    """Log probabilities of the vocabulary at each of the tokens, [T, V] float32."""
    row = engine.row(0, prompt, composition, Sampling())
    [read] = forced(
        engine.model, engine.snapshot.layout, row.ids, tokens, [row.mixture], route=row.router, whole=True
    )
    assert read.scores is not None
    return read.scores[0].cpu().numpy()


def blocks(costs: Sequence[QuantizationCost], full: Engine, quantised: Engine) -> list[Block]:
    """The lines as a table with what it is."""
    head = ("composition", "tokens", "KL, nats", "same first choice", "loss, nats", "moved by adapters, nats")
    rows = [
        (
            cost.name,
            str(cost.tokens),
            _interval(cost.kl, "{:.3f}"),
            _interval(cost.same, "{:.1%}"),
            _interval(cost.loss, "{:+.3f}"),
            _interval(cost.moved, "{:.2f}"),
        )
        for cost in costs
    ]
    return [
        table(head, rows),
        Paragraph(
            f"{full.base.spec.name} against {quantised.base.spec.name}, at every position of the first "
            "one's greedy continuations. KL: of the full base's next-token distribution to the quantised "
            "one's. Loss: the quantised base's minus the full one's. Moved: KL of the composed to the bare "
            "distribution on the full base, to compare the first with. Brackets: 95% intervals, bootstraps "
            "over prompts."
        ),
    ]


def _interval(value: Interval, form: str) -> str:
    return f"{form.format(value.value)} [{form.format(value.low)}, {form.format(value.high)}]"
