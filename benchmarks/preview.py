"""A slider moves: how long until the panel of next words has its numbers."""

from __future__ import annotations

from benchmarks.fixture import USUAL, BenchFixture
from benchmarks.plan import Plan, prompt_of
from benchmarks.timing import Measurement, quantile, timed
from composer.analysis.next_token import NextTokenReader
from composer.core.composition import Composition


def measure(fixture: BenchFixture, plan: Plan) -> dict:
    """Seconds from one slider's new weight to the next words with their pushes; no two calls are alike."""
    engine = fixture.ours(USUAL)
    read = NextTokenReader(engine)
    prompt = prompt_of(fixture.count_tokens, plan.preview_prompt)

    def move(call: int) -> Measurement:
        weight = -2 + 4 * call / plan.previews
        composition = Composition(weights={**dict.fromkeys(engine.names, 1.0), engine.names[0]: weight})
        return timed(lambda: read(prompt, composition), fixture.device)

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
