"""python -m composer train: recipes in, adapter folders out. Imports nothing heavy until it runs."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO

from composer.cli.options import add_common, output_folder
from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message

log = logging.getLogger(__name__)


def command(commands) -> None:
    """Register `train` with the shell's subcommands."""
    parser = commands.add_parser(
        "train", help="train adapters from recipes (QLoRA where the base is in nf4, else LoRA)"
    )
    add_common(parser)
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes to train (all of the file)")
    parser.add_argument(
        "--data", type=Path, help="folder with the corpora; without it they come from the Hub"
    )
    parser.add_argument("--out", type=Path, default=Path("assets/adapters"), help="(%(default)s)")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/train"),
        help="checkpoints; a run goes on from them (%(default)s)",
    )
    parser.add_argument("--recipes", type=Path, help="a recipe file (the bundled one)")
    parser.add_argument(
        "--quantization",
        choices=("auto", "none", "nf4"),
        default="auto",
        help="of the base while training; auto: nf4 (QLoRA) on a GPU, none on a CPU",
    )
    parser.add_argument("--force", action="store_true", help="train again what --out already has")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    from composer.adapters.catalog import load_catalog
    from composer.training.recipes import BUNDLED, load_recipes

    recipes = load_recipes(args.recipes or BUNDLED)
    names = args.names or list(recipes)
    if strange := [name for name in names if name not in recipes]:
        raise ComposerError(unknown_name_message("recipe", strange[0], recipes))
    if args.data is not None and not args.data.is_dir():
        raise ComposerError("--data is not a folder; give the folder that holds the corpora.")
    for option, folder in (("--out", args.out), ("--work", args.work)):
        output_folder(option, folder)
    spec = as_trained(load_catalog(args.catalog).base(args.base), args.quantization)
    made, library = {}, None
    for name in names:
        folder = args.out / name
        if (folder / "adapter_model.safetensors").is_file() and not args.force:
            log.info("%s is there already; --force trains it again", name)
        else:
            # Late, so that --help and a wrong name answer at once; inside, because PEFT changes its base.
            from composer.model.loading import load_base
            from composer.training.corpora import CorpusStore
            from composer.training.pipeline import make

            library = library or CorpusStore(args.data)
            make(recipes[name], partial(load_base, spec), library, args.out, args.work)
        made[name] = str(folder)
        if not args.json:
            print(f"{name}: {folder}", file=out)
    if args.json:
        print(json.dumps({"adapters": made}), file=out)
    return 0


def as_trained(spec: BaseSpec, wanted: str) -> BaseSpec:
    """The base in the dtype and quantization of training, whatever the catalog serves it in."""
    import torch

    from composer.training.precision import multiplies_bfloat16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "auto":
        wanted = "nf4" if device.type == "cuda" else spec.quantization
    half = wanted == "nf4" or multiplies_bfloat16(device)
    return replace(spec, quantization=wanted, dtype="bfloat16" if half else spec.dtype)
