"""A base of another family than the catalog's: Gemma 3 of 270M parameters, ours beside PEFT.

Its weights come from a folder, or from where the catalog's base is on this machine; the project brings none.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import peft_baseline
from benchmarks.fixture import USUAL, BenchFixture
from benchmarks.plan import Plan, SectionLeftOut, prompt_of
from benchmarks.single_stream import ours
from benchmarks.timing import Arm, interleave
from composer.adapters.catalog import load_catalog
from composer.core.catalog_types import BaseSpec
from composer.model.checkpoints.files import is_here, locate

BASE = "gemma3-270m"
COUNTS = (0, 1, USUAL)
HOW = f"give its folder as --family-folder, or run python -m composer fetch {BASE}"


def measure(folder: Path | None, room: Path, rank: int, plan: Plan) -> dict:
    """arms: "ours N" and "peft N" -> seconds per decoded token with N adapters, in float32 on a CPU.

    folder: of the base; None takes the catalog's. room: a folder for what is made on the way. Raises
    SectionLeftOut where there is no such base.
    """
    known = load_catalog("adapters.yaml").base(BASE)
    source = folder or (locate(known)[0] if is_here(known) else None)
    if source is None:
        raise SectionLeftOut(f"The section family needs a base: {HOW}.")
    spec = BaseSpec("family", "family", folder=str(source), dtype="float32", quantization="none")
    fixture = BenchFixture(spec, room / "family-stand", rank=rank, device="cpu")
    prompt = prompt_of(fixture.count_tokens, plan.prompt)
    ids = fixture.encode(prompt)
    arms: dict[str, Arm] = {
        f"ours {count}": ours(fixture.ours(count), prompt, plan.tokens) for count in COUNTS
    }
    bare = peft_baseline.plain(fixture.reference_base)
    several = peft_baseline.peft_model(fixture.reference_base, fixture.adapters[:USUAL])
    names = [path.name for path in fixture.adapters]

    arms["peft 0"] = lambda: peft_baseline.generate(bare, ids, plan.tokens)
    arms |= {
        f"peft {count}": peft_baseline.active(several, names[:count], ids, plan.tokens)
        for count in COUNTS[1:]
    }
    config = fixture.base.model.config
    return {
        "model_type": config.model_type,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "parameters": sum(each.numel() for each in fixture.base.model.parameters()),
        "rank": rank,
        "tokens": plan.tokens,
        "compiled": dict(fixture.compiled),
        "arms": interleave(arms, plan.rounds),
    }
