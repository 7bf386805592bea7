"""The base in 4 bits, as QLoRA trains on it, beside itself in full and beside PEFT, on a CPU."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import peft_baseline
from benchmarks.fixture import USUAL, BenchFixture
from benchmarks.plan import Plan, SectionLeftOut, prompt_of
from benchmarks.single_stream import ours
from benchmarks.timing import Arm, interleave

COUNTS = (0, USUAL)


def measure(fixture: BenchFixture, plan: Plan) -> dict:
    """arms: "full N", "nf4 N" and "peft N" -> seconds per decoded token with N adapters.

    "peft" is PEFT's `generate()` on the base in nf4. Raises SectionLeftOut for a base that is not in full
    precision, and on a GPU, whose section has its own.
    """
    if fixture.device.type != "cpu" or fixture.spec.quantization != "none":
        raise SectionLeftOut("The section nf4 compares a base in full precision with its 4 bits, on a CPU.")
    spec = replace(fixture.spec, quantization="nf4")
    quantized = BenchFixture(spec, fixture.folder, device="cpu")
    prompt = prompt_of(fixture.count_tokens, plan.prompt)
    ids = fixture.encode(prompt)
    arms: dict[str, Arm] = {}
    for count in COUNTS:
        arms[f"full {count}"] = ours(fixture.ours(count), prompt, plan.tokens)
        arms[f"nf4 {count}"] = ours(quantized.ours(count), prompt, plan.tokens)
    several = peft_baseline.peft_model(quantized.reference_base, quantized.adapters[:USUAL])
    names = [path.name for path in quantized.adapters[:USUAL]]
    arms[f"peft {USUAL}"] = peft_baseline.active(several, names, ids, plan.tokens)
    return {
        "tokens": plan.tokens,
        "compiled": {
            **{f"full, {name}": done for name, done in fixture.compiled.items()},
            **{f"nf4, {name}": done for name, done in quantized.compiled.items()},
        },
        "arms": interleave(arms, plan.rounds),
    }
