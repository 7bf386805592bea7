"""What adapters cost that are loaded and not in use, as most of a page's are at any moment."""

from __future__ import annotations

from benchmarks.fixture import USUAL, BenchFixture, add_many, warm
from benchmarks.plan import Plan, prompt_of
from benchmarks.single_stream import ours
from benchmarks.timing import interleave


def measure(fixture: BenchFixture, plan: Plan) -> dict:
    """arms: "loaded N" -> seconds per decoded token with N adapters loaded and USUAL of them at weight 1."""
    prompt = prompt_of(fixture.count_tokens, plan.prompt)
    arms, compiled = {}, {}
    for count in (USUAL, *plan.loaded):
        engine = fixture.fresh()
        add_many(engine, fixture.adapters, count)
        compiled[f"{count} loaded"] = warm(engine)
        arms[f"loaded {count}"] = ours(engine, prompt, plan.tokens, dict.fromkeys(engine.names[:USUAL], 1.0))
    return {
        "used": USUAL,
        "tokens": plan.tokens,
        "compiled": compiled,
        "arms": interleave(arms, plan.rounds),
    }
