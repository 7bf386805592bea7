"""composer export: writes a mix as one plain PEFT adapter."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from composer.cli.options import (
    add_common,
    add_composition,
    load_engine,
    output_folder,
    read_composition,
    write_json,
)
from composer.core.composition import Composition, Sampling

if TYPE_CHECKING:
    from composer.engine.engine import Engine
    from composer.engine.export import Baked


def command(commands) -> None:
    """Register `export` with the shell's subcommands."""
    parser = commands.add_parser(
        "export", help="write a mix as one plain PEFT adapter, gates and curves baked in"
    )
    add_common(parser)
    add_composition(parser)
    parser.add_argument("--prompt", help="for methods whose gates depend on it")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--export-rank",
        type=int,
        metavar="R",
        help="cut every site to this rank, for runtimes that want one (exact, with ranks as they come)",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    composition = read_composition(args)
    folder = output_folder("--out", args.out)
    engine = load_engine(args)
    from composer.adapters.export import write_adapter
    from composer.adapters.recipe import recipe_yaml
    from composer.engine.export import bake
    from composer.engine.recipes import recipe_of

    baked = bake(engine, composition, args.prompt, args.export_rank)
    base = engine.base.spec
    write_adapter(folder, baked.adapter, base.id, base.revision)
    recipe = recipe_yaml(recipe_of(engine, args.prompt or "", composition, Sampling()))
    (folder / "recipe.yaml").write_text(recipe, "utf-8")
    (folder / "README.md").write_text(_card(engine, composition, args.prompt, baked), "utf-8")
    ranks = {int(own.A.shape[0]) for own in baked.adapter.values()}
    if args.json:
        answer = {
            "folder": str(folder),
            "sites": len(baked.adapter),
            "ranks": sorted(ranks),
            "kept": baked.kept,
        }
        write_json(answer, out)
    else:
        cut = f", {baked.kept:.1%} of the squared norm kept" if args.export_rank else ""
        words = " to ".join(str(each) for each in sorted({min(ranks), max(ranks)}))
        out.write(f"{len(baked.adapter)} sites of rank {words}{cut}: {folder}\n")
    return 0


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
Made by `python -m composer export`; `recipe.yaml` has all settings. It can only be louder or softer as a
whole: its parts have no sliders any more. The licences of the adapters that it is made of apply.
"""
