"""A slider moves: how long until the next token's forecast is there."""

from __future__ import annotations

from benchmarks.fixture import USUAL, BenchFixture
from benchmarks.plan import Plan, prompt_of
from benchmarks.timing import Measurement, quantile, timed
from composer.core.composition import Composition


def measure(fixture: BenchFixture, plan: Plan) -> dict:
    """Seconds from new weights to the logits of the next token; every call has weights of its own."""
    engine = fixture.ours(USUAL)
    prompt = prompt_of(fixture.count_tokens, plan.preview_prompt)

    def move(call: int) -> Measurement:
        weight = -2 + 4 * call / plan.previews
        composition = Composition(weights=dict.fromkeys(engine.names, weight))
        return timed(lambda: engine.next_token_logits(prompt, composition), fixture.device)

    move(0)
    readings = [move(call) for call in range(plan.previews)]
    seconds = [reading.seconds for reading in readings]
    return {
        "prompt_tokens": fixture.count_tokens(prompt),
        "p50": quantile(seconds, 0.5),
        "p95": quantile(seconds, 0.95),
        "cpu": quantile([reading.cpu for reading in readings], 0.5),
        "count": plan.previews,
    }
