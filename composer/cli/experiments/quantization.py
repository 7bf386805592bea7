"""python -m composer quantization: what a quantised base costs, bare and with adapters composed."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from composer.cli.options import add_common
from composer.core.composition import Composition
from composer.core.errors import ComposerError

if TYPE_CHECKING:
    from composer.engine.engine import Engine


def command(commands) -> None:
    """Register `quantization` with the shell's subcommands."""
    parser = commands.add_parser(
        "quantization", help="compare a base with its quantised self, bare and with adapters composed"
    )
    add_common(parser)
    parser.add_argument(
        "--against", required=True, metavar="BASE", help="the quantised base's name in the catalog"
    )
    parser.add_argument("--prompts", type=Path, help="a file with one prompt a line (the 35 of PPLM)")
    parser.add_argument("--tokens", type=int, default=32, help="length of each text (%(default)s)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    if not 1 <= args.tokens <= 512:
        raise ComposerError("--tokens must be from 1 to 512.")

    from composer.evaluation.prompts import BUNDLED, load_prompts

    prompts = load_prompts(args.prompts or BUNDLED)

    from tqdm import tqdm

    from composer.core.document import markdown
    from composer.core.machine import machine_line
    from composer.engine.engine import Engine
    from composer.evaluation.quantization import blocks, quantization_cost

    full, quantised = (
        Engine.from_catalog(args.catalog, base, compile_step=False) for base in (args.base, args.against)
    )
    compositions = _compositions(full, quantised)
    with tqdm(total=len(compositions) * len(prompts), unit="text", file=sys.stderr) as bar:
        costs = quantization_cost(full, quantised, compositions, prompts, args.tokens, bar.update)
    machine = f"{full.base.device} ({machine_line()})"
    if args.json:
        print(json.dumps({"costs": [asdict(cost) for cost in costs], "machine": machine}), file=out)
    else:
        print(markdown(blocks(costs, full, quantised)), file=out)
        print(f"Made on {machine}.", file=out)
    return 0


def _compositions(full: Engine, quantised: Engine) -> dict[str, Composition]:
    """The bare base, each adapter that both have, and each pair of two attributes by sum and by contrast."""
    names = [name for name in full.names if name in quantised.names]
    groups = [[name for name in group.members if name in names] for group in full.attributes]
    found = {"base": Composition()} | {name: Composition({name: 1}) for name in names}
    for one, two in product(*groups[:2]) if len(groups) > 1 else ():
        for method in ("sum", "contrast"):
            found[f"{one} + {two}, {method}"] = Composition({one: 1, two: 1}, method=method)
    return found
