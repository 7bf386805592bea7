"""A composition as one plain LoRA adapter: gates and curves baked into its factors, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from composer.adapters.bank import Adapter, LoraFactors
from composer.adapters.export import write_adapter
from composer.adapters.gguf_file import write_gguf
from composer.adapters.recipe import Source, recipe_yaml
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError, check_int
from composer.engine.engine import AnyComposition, Engine
from composer.engine.execution import Executor, in_turn, run_inline
from composer.engine.recipes import recipe_of
from composer.engine.resolve import ResolvedComposition
from composer.methods.merging.factor_ops import MergedFactors, WeightedDelta, cut, stacked

MOST_RANK = 4096
GGUF = "adapter.gguf"
# Stands where the gates do not depend on the prompt.
ANY = "The"


@dataclass(frozen=True)
class Baked:
    """The adapter, and what cutting it to a rank left of its squared Frobenius norm (1: all of it)."""

    adapter: Adapter
    kept: float = 1.0


def bake(
    engine: Engine,
    composition: AnyComposition,
    prompt: str | None = None,
    rank: int | None = None,
    execute: Executor = run_inline,
) -> Baked:
    """The adapter that alone adds what the composition adds.

    prompt: for methods whose gates depend on it; they are those of this prompt. rank: cut every site to this
    rank by an SVD, as runtimes that want one rank do; None: the exact concatenation. execute: runs each of
    many pieces of work. Raises ComposerError for a composition that no single adapter can stand for.
    """
    resolved = engine.resolve(composition)
    _check(resolved, prompt)
    if rank is not None:
        rank = check_int("The rank", rank, 1, MOST_RANK)
    row = execute(lambda: engine.row(0, prompt or ANY, resolved, Sampling()))
    (gates,) = row.mixture.gates  # [L, N]
    sites = execute(lambda: _parts(engine, gates))
    if rank is None:
        return Baked({path: _factors(stacked(parts)) for path, parts in sites.items()})
    cuts = in_turn((partial(cut, parts, rank) for parts in sites.values()), execute)
    made = dict(zip(sites, cuts, strict=True))
    whole, kept = (sum(getattr(own, name) for own in made.values()) for name in ("whole", "kept"))
    adapter = {path: _factors(own, rank) for path, own in made.items()}
    return Baked(adapter, kept / whole if whole else 1.0)


def export(
    engine: Engine,
    composition: AnyComposition,
    folder: Path,
    prompt: str | None = None,
    rank: int | None = None,
    sources: Mapping[str, Source] = MappingProxyType({}),
    execute: Executor = run_inline,
    gguf: bool = False,
) -> Baked:
    """Write the adapter that `bake` makes, with a model card and the recipe, to a folder.

    sources: see recipe_of. gguf: write a GGUF file too, as llama.cpp reads an adapter. Raises ComposerError
    as `bake`, for a base that llama.cpp has no names for, and where nothing can be written.
    """
    baked = bake(engine, composition, prompt, rank, execute)
    asked = composition if isinstance(composition, Composition) else composition.composition
    base = engine.base.spec
    write_adapter(folder, baked.adapter, base.id, base.revision)
    if gguf:
        write_gguf(folder / GGUF, baked.adapter, engine.base.model.config)
    recipe = recipe_of(engine, prompt or "", asked, Sampling(), sources=sources)
    try:
        (folder / "recipe.yaml").write_text(recipe_yaml(recipe), "utf-8")
        (folder / "README.md").write_text(_card(engine, asked, prompt, baked), "utf-8")
    except OSError as fault:
        raise ComposerError("The adapter cannot be written there; choose another folder.") from fault
    return baked


def _check(resolved: ResolvedComposition, prompt: str | None) -> None:
    method, composition = resolved.method, resolved.composition
    reasons: Mapping[str, bool] = {
        "combines the logits of several runs": method.on_logits,
        "weights the adapters anew for every token": resolved.router(int(resolved.columns.max(initial=0)) + 1)
        is not None,
        "computes its gates anew while it writes": resolved.refresh_every > 0,
        "has a schedule over tokens": bool(composition.schedule),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ComposerError(f"This mix ({method.label}) {reason}, which no single adapter can do.")
    if prompt is None and resolved.missing_stats(None):
        raise ComposerError(
            f"{method.label} reads the prompt; give one with --prompt, and its gates are kept."
        )


def _parts(engine: Engine, gates: np.ndarray) -> dict[str, list[WeightedDelta]]:
    """For each site what every adapter with a gate in its layer adds there."""
    bank, layer_of = engine.snapshot.bank, engine.model.layer_of
    found: dict[str, list[WeightedDelta]] = {}
    for index, name in enumerate(bank.names):
        if not gates[:, index].any():
            continue
        for path, own in bank.adapter(name).items():
            gate = float(gates[layer_of[path], index])
            if gate and own.A.shape[0]:
                part = WeightedDelta(own.A.float(), own.B.float(), gate * own.scaling)
                found.setdefault(path, []).append(part)
    return found


def _factors(made: MergedFactors, rank: int = 0) -> LoraFactors:
    """The factors, with zeros up to the rank so that all sites have the same."""
    missing = max(0, rank - made.A.shape[0])
    rows = made.A.new_zeros(missing, made.A.shape[1])  # [missing, d_in]
    columns = made.B.new_zeros(made.B.shape[0], missing)  # [d_out, missing]
    return LoraFactors(torch.cat([made.A, rows]), torch.cat([made.B, columns], dim=1), 1.0)


def _card(engine: Engine, composition: Composition, prompt: str | None, baked: Baked) -> str:
    """The model card: what it is, how it was made, and what it is not."""
    weights = "\n".join(f"- {name}: {weight:g}" for name, weight in composition.weights.items() if weight)
    read = f"\nThe gates are those of the prompt {prompt!r}.\n" if prompt else ""
    cut = (
        ""
        if baked.kept == 1
        else f"\nEvery site was cut to one rank; {baked.kept:.1%} of the squared norm is left.\n"
    )
    return f"""---
base_model: {engine.base.id}
library_name: peft
pipeline_tag: text-generation
tags: [lora, adapter-composer]
---

# A mix of adapters

One LoRA adapter that adds to `{engine.base.id}` what these adapters add together, by the method
`{composition.method}`, with gates and curves baked in layer by layer:

{weights}
{read}{cut}
Made by the Adapter Composer (`python -m composer export`); `recipe.yaml` has all settings. It can only be
louder or softer as a whole: its parts have no sliders any more. The licences of the adapters that it is made
of apply.
"""
