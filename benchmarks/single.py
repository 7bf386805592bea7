"""One stream: tokens a second of ours, of PEFT, of the ensemble, and of the bare products."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import peft_side
from benchmarks.int8 import change
from benchmarks.plan import Plan, expect, greedy, prompt_of
from benchmarks.profile import operators
from benchmarks.stand import USUAL, Stand
from benchmarks.timing import Arm, Reading, between, interleave, now
from benchmarks.wall import bare_products
from composer.core.composition import Composition
from composer.engine.engine import Engine

COUNTS = (0, 1, 3, 8)


def measure(stand: Stand, plan: Plan) -> dict:
    """Seconds per decoded token of every arm; see `arms` for their names."""
    wall = bare_products(stand)
    made = arms(stand, plan, wall)
    result = {
        "tokens": plan.tokens,
        "arms": interleave(made, plan.rounds),
        "compiled": dict(stand.compiled),
        "wall_forms": wall.forms,
        "profile": operators(stand.ours(USUAL), prompt_of(stand.count_tokens, plan.prompt), plan.tokens),
    }
    if "ours int8 3" in made:
        result["int8"] = change(stand)
    return result


def arms(stand: Stand, plan: Plan, wall: Callable[[int], Reading]) -> dict[str, Arm]:
    """ours N, ours eager N, ours int8 N (on a CPU), peft N (N active), peft cat 3, passes 4, wall."""
    prompt = prompt_of(stand.count_tokens, plan.prompt)
    ids, tokens = stand.encode(prompt), plan.tokens
    made: dict[str, Arm] = {f"ours {n}": ours(stand.ours(n), prompt, tokens) for n in COUNTS}
    for n in (0, 3):
        made[f"ours eager {n}"] = ours(stand.ours(n, compiled=False), prompt, tokens)
    if stand.device.type == "cpu" and stand.spec.quantization == "none":
        for n in (0, 3):
            made[f"ours int8 {n}"] = ours(stand.ours(n, weights="int8"), prompt, tokens)

    bare, several = peft_side.plain(stand), peft_side.peft_model(stand)
    names = [folder.name for folder in stand.adapters]
    cat = peft_side.concatenate(several, names[:USUAL], "cat")
    made["peft 0"] = lambda: peft_side.generate(bare, ids, tokens)

    def active(chosen: list[str]) -> Arm:
        def run() -> Reading:
            peft_side.activate(several, chosen)
            return peft_side.generate(several, ids, tokens)

        return run

    made |= {f"peft {n}": active(names[:n]) for n in COUNTS[1:]}
    made[f"peft cat {USUAL}"] = active([cat])
    models = peft_side.separate(stand, USUAL)
    made[f"passes {len(models)}"] = lambda: peft_side.ensemble(models, ids, tokens)
    made["wall"] = lambda: wall(tokens)
    return made


def ours(engine: Engine, prompt: str, tokens: int) -> Arm:
    """Greedy decoding with every adapter of the engine at weight 1; per token after the first."""
    composition = Composition(weights=dict.fromkeys(engine.names, 1.0))

    def run() -> Reading:
        steps = engine.generate(prompt, composition, greedy(tokens))
        next(steps)
        began = now(engine.base.device)
        drawn = 1 + sum(1 for _ in steps)
        ended = now(engine.base.device)
        expect(drawn, tokens)
        return between(began, ended, tokens - 1)

    return run
