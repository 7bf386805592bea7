"""python -m composer train: recipes or somebody's own texts in, adapter folders out.

Imports nothing heavy until it runs.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from composer.cli.options import add_common, output_folder, write_json
from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError, check_number, sanitize
from composer.core.names import unknown_name_message

if TYPE_CHECKING:
    from composer.training.own_texts.options import Options

log = logging.getLogger(__name__)


def command(commands) -> None:
    """Register `train` with the shell's subcommands."""
    parser = commands.add_parser(
        "train", help="train adapters from recipes or your own texts, as QLoRA on the base in nf4"
    )
    add_common(parser)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="recipes to train (all of the file); with --texts, how the new adapter is called",
    )
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
        help="of the base while training; auto: nf4 (QLoRA)",
    )
    parser.add_argument(
        "--seed", type=int, help="of the training (the recipe's; 7); a recipe's texts stay the same"
    )
    parser.add_argument("--force", action="store_true", help="train again what --out already has")
    parser.add_argument(
        "--keep-texts",
        action="store_true",
        help="store what the base wrote in assets/training, where other trainings of the recipe find it",
    )
    _add_text_options(parser)
    parser.set_defaults(run=_run)


def _add_text_options(parser: argparse.ArgumentParser) -> None:
    """What is for own texts only. None: not given."""
    own = parser.add_argument_group("an adapter of your own texts")
    own.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="texts of one kind: .txt (a blank line between two), .jsonl, .csv, or folders of such files",
    )
    own.add_argument("--column", help="where the text is in .jsonl and .csv files (text)")
    own.add_argument("--steps", type=int, help="training steps (three passes over the texts, 60 to 400)")
    own.add_argument("--rank", type=int, help="of the adapter (8)")
    own.add_argument("--learning-rate", type=float, help="(0.001; 0.0002 for a base of a billion parameters)")
    own.add_argument(
        "--alpha-gain", type=float, help="the change is stored so many times stronger than it was trained (1)"
    )
    own.add_argument("--add", action="store_const", const=True, help="put the adapter into the catalog")


SEEDS = 0, 2**32 - 1
TEXT_OPTIONS = ("column", "steps", "rank", "learning_rate", "alpha_gain", "add")


def _run(args: argparse.Namespace, out: TextIO) -> int:
    if args.texts:
        return _run_on_texts(args, out)
    if given := [each for each in TEXT_OPTIONS if getattr(args, each) is not None]:
        raise ComposerError(f"--{given[0].replace('_', '-')} is for own texts: give them with --texts.")
    from composer.adapters.catalog import load_catalog
    from composer.adapters.files import WEIGHTS
    from composer.training.recipes import BUNDLED, load_recipes

    spec = load_catalog(args.catalog).base(args.base)
    recipes = load_recipes(args.recipes or BUNDLED, spec.name)
    names = args.names or list(recipes)
    if strange := [name for name in names if name not in recipes]:
        raise ComposerError(unknown_name_message("recipe", strange[0], recipes))
    if args.data is not None and not args.data.is_dir():
        raise ComposerError("--data is not a folder; give the folder that holds the corpora.")
    for option, folder in (("--out", args.out), ("--work", args.work)):
        output_folder(option, folder)
    if args.seed is not None:
        check_number("--seed", args.seed, *SEEDS)
    trained, writing = training_bases(spec, args.quantization)
    made, library = {}, None
    for name in names:
        folder = args.out / name
        if (folder / WEIGHTS).is_file() and not args.force:
            log.info("%s is there already; --force trains it again", name)
        else:
            # Late, so that --help and a wrong name answer at once; inside, because PEFT changes its base.
            from composer.model.loading import load_base
            from composer.training.corpora import CorpusStore
            from composer.training.pipeline import Bases, make, written_files
            from composer.training.written_texts import keep

            library = library or CorpusStore(args.data)
            bases = Bases(partial(load_base, trained), partial(load_base, writing), spec.id)
            make(recipes[name], bases, library, args.out, args.work, args.seed)
            for file in written_files(recipes[name], spec.id, args.work) if args.keep_texts else ():
                log.info("texts are stored as %s", keep(file))
        made[name] = str(folder)
        if not args.json:
            print(f"{name}: {folder}", file=out)
    if args.json:
        print(json.dumps({"adapters": made}), file=out)
    return 0


def _run_on_texts(args: argparse.Namespace, out: TextIO) -> int:
    from composer.adapters.catalog import load_catalog
    from composer.core.assets import catalog_file
    from composer.training.own_texts import catalog_lines
    from composer.training.own_texts.reader import read_texts

    if len(args.names) != 1:
        raise ComposerError("--texts makes one adapter: write train NAME --texts FILE, with one name.")
    if args.data is not None or args.recipes is not None:
        raise ComposerError("--data and --recipes are for recipes: leave them out, or leave out --texts.")
    [name] = args.names
    catalog_lines.check_name(name)
    options = _text_options(args)
    spec = load_catalog(args.catalog).base(args.base)
    folder = args.out / name
    sources = {adapter.name: Path(adapter.source) for adapter in spec.adapters}
    there = name in sources
    if there and sources[name].resolve() != folder.resolve():
        raise ComposerError(f"The catalog has an adapter called {name} already: choose another name.")
    if args.add and not there:
        catalog_lines.check_addable(args.catalog, spec.name, name)
    own = read_texts(args.texts, args.column or "text")
    for option, path in (("--out", args.out), ("--work", args.work)):
        output_folder(option, path)

    # Late, as below: it imports torch.
    from composer.model.loading import load_base
    from composer.training.own_texts.run import Folders, train_on_texts
    from composer.training.pipeline import Bases

    trained, writing = training_bases(spec, args.quantization)
    bases = Bases(partial(load_base, trained), partial(load_base, writing), spec.id)
    identity = (spec.id, spec.revision, trained.quantization)
    results = train_on_texts(name, own, options, bases, identity, Folders(args.out, args.work), args.force)

    files = own.files[0] if len(own.files) == 1 else f"{len(own.files)} files"
    blurb = f"Learnt from {len(own.texts)} texts of {sanitize(files)}."
    entry = catalog_lines.describe(name, folder, catalog_file(args.catalog), spec, blurb)
    if args.add and not there:
        catalog_lines.add_to_catalog(args.catalog, spec.name, name, entry)
    if args.json:
        answer = {"adapters": {name: str(folder)}, "results": asdict(results), "catalog": {name: entry}}
        write_json(answer, out)
        return 0
    below = catalog_lines.holder(args.catalog, spec.name)
    place = f"{catalog_file(args.catalog).name}, under bases, {below}, adapters"
    told = [str(folder), *results.sentences()]
    if there or args.add:
        told.append(f"is in {place}")
    else:
        told.append(f"give the same command again with --add, or put these lines into {place}")
    print(*(f"{name}: {line}" for line in told), sep="\n", file=out)
    if not (there or args.add):
        print(f"\n{catalog_lines.lines(name, entry)}", file=out)
    return 0


def _text_options(args: argparse.Namespace) -> Options:
    """Raises ComposerError for numbers that make no training run."""
    from composer.training.own_texts.options import Options

    bounds = {
        "steps": (1, 10_000),
        "rank": (1, 128),
        "learning_rate": (1e-7, 0.1),
        "alpha_gain": (0.1, 10),
        "seed": SEEDS,
    }
    given = {name: getattr(args, name) for name in bounds if getattr(args, name) is not None}
    for name, value in given.items():
        check_number(f"--{name.replace('_', '-')}", value, *bounds[name])
    return Options(**given)


def training_bases(spec: BaseSpec, wanted: str) -> tuple[BaseSpec, BaseSpec]:
    """The base as it is trained on and as it writes, whatever the catalog serves it in."""
    import torch

    from composer.training.precision import faster_in_bfloat16

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quantization = "nf4" if wanted == "auto" else wanted
    half = replace(spec, quantization="none", dtype="bfloat16" if faster_in_bfloat16(device) else "float32")
    if device.type == "cuda":
        trained = replace(half, quantization=quantization)
        return trained, trained
    # Rounded to bfloat16 before they are quantised, weights would not be those of the base that is served.
    return (half if quantization == "none" else replace(spec, quantization=quantization)), half
