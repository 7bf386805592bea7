"""One stream: tokens a second of ours, of PEFT, of the ensemble, and of the bare products."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks import peft_baseline
from benchmarks.fixture import USUAL, BenchFixture
from benchmarks.int8 import change
from benchmarks.plan import Plan, expect, greedy, prompt_of
from benchmarks.profile import operators
from benchmarks.roofline import bare_products
from benchmarks.timing import Arm, Measurement, between, interleave, now
from composer.core.composition import Composition
from composer.core.results import Step
from composer.engine.engine import Engine

COUNTS = (0, 1, 3, 8)


def measure(fixture: BenchFixture, plan: Plan) -> dict:
    """Seconds per decoded token of every arm; see `arms` for their names."""
    wall = bare_products(fixture.reference_base)
    made = arms(fixture, plan, wall)
    result = {
        "tokens": plan.tokens,
        "arms": interleave(made, plan.rounds),
        "compiled": dict(fixture.compiled),
        "wall_forms": wall.forms,
        "profile": operators(fixture.ours(USUAL), prompt_of(fixture.count_tokens, plan.prompt), plan.tokens),
    }
    if "ours int8 3" in made:
        result["int8"] = change(fixture)
    return result


def arms(fixture: BenchFixture, plan: Plan, wall: Callable[[int], Measurement]) -> dict[str, Arm]:
    """ours N, ours eager N, on a CPU ours float32 N and ours int8 N, peft N (N active), peft cat 3, passes 4,
    wall."""
    prompt = prompt_of(fixture.count_tokens, plan.prompt)
    ids, tokens = fixture.encode(prompt), plan.tokens
    made: dict[str, Arm] = {f"ours {n}": ours(fixture.ours(n), prompt, tokens) for n in COUNTS}
    for n in (0, 3):
        made[f"ours eager {n}"] = ours(fixture.ours(n, compiled=False), prompt, tokens)
    if fixture.device.type == "cpu" and fixture.spec.quantization == "none":
        for weights, counts in (("float32", COUNTS), ("int8", (0, 3))):
            made |= {
                f"ours {weights} {n}": ours(fixture.ours(n, weights=weights), prompt, tokens) for n in counts
            }

    reference = fixture.reference_base
    bare = peft_baseline.plain(reference)
    several = peft_baseline.peft_model(reference, fixture.adapters)
    names = [folder.name for folder in fixture.adapters]
    cat = peft_baseline.concatenate(several, names[:USUAL], "cat")
    made["peft 0"] = lambda: peft_baseline.generate(bare, ids, tokens)

    made |= {f"peft {n}": peft_baseline.active(several, names[:n], ids, tokens) for n in COUNTS[1:]}
    made[f"peft cat {USUAL}"] = peft_baseline.active(several, [cat], ids, tokens)
    models = peft_baseline.separate(reference, fixture.adapters[:USUAL])
    made[f"passes {len(models)}"] = lambda: peft_baseline.ensemble(models, ids, tokens)
    made["wall"] = lambda: wall(tokens)
    return made


def ours(engine: Engine, prompt: str, tokens: int, weights: Mapping[str, float] | None = None) -> Arm:
    """The arm of `decode`."""
    return lambda: decode(engine, prompt, tokens, weights)[0]


def decode(
    engine: Engine, prompt: str, tokens: int, weights: Mapping[str, float] | None = None
) -> tuple[Measurement, list[Step]]:
    """Greedy decoding: the reading is per token after the first.

    weights: of the engine's adapters; None is every one at 1.
    """
    composition = Composition(weights=dict.fromkeys(engine.names, 1.0) if weights is None else weights)
    steps = engine.generate(prompt, composition, greedy(tokens))
    drawn = [next(steps)]
    began = now(engine.base.device)
    drawn.extend(steps)
    ended = now(engine.base.device)
    expect(len(drawn), tokens)
    return between(began, ended, tokens - 1), drawn
