"""What every subcommand takes, and how each reads text into values. Imports nothing heavy."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.fault_messages import sentence
from composer.core.jsonable import to_jsonable
from composer.core.parameters import parameters_of
from composer.methods import METHODS

if TYPE_CHECKING:
    from composer.engine.engine import Engine

CATALOG = "adapters.yaml"


def add_common(parser: argparse.ArgumentParser) -> None:
    """--catalog, --base, --json and --verbose, the same for every subcommand that loads an engine."""
    parser.add_argument("--catalog", default=CATALOG, help="the catalog of bases and adapters (%(default)s)")
    parser.add_argument("--base", help="a base named in the catalog (the catalog's default)")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout, everything else on stderr"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is loaded and from where")


def add_composition(parser: argparse.ArgumentParser) -> None:
    """Every field of a Composition; `read_composition` makes it."""
    parser.add_argument("--weights", default="", metavar="NAME=W,...", help="adapters left out have weight 0")
    parser.add_argument("--method", default="sum", help=f"one of {', '.join(METHODS)} (%(default)s)")
    parser.add_argument(
        "--bands", default="1,1,1", metavar="E,M,L", help="multipliers of the early, middle and late layers"
    )
    _add_parameters(parser, Composition())


def read_composition(args: argparse.Namespace) -> Composition:
    """What `add_composition` was given. Raises ComposerError for values that a Composition cannot have."""
    return Composition(
        weights=parse_weights(args.weights),
        method=args.method,
        bands=parse_numbers("--bands", args.bands),
        **{name: getattr(args, name) for name in parameters_of(Composition)},
    )


def add_sampling(parser: argparse.ArgumentParser, defaults: Sampling = Sampling()) -> None:
    """Every field of a Sampling; `read_sampling` makes it."""
    _add_parameters(parser, defaults)


def read_sampling(args: argparse.Namespace) -> Sampling:
    """What `add_sampling` was given. Raises ComposerError for values that a Sampling cannot have."""
    return Sampling(**{name: getattr(args, name) for name in parameters_of(Sampling)})


def _add_parameters(parser: argparse.ArgumentParser, defaults: Composition | Sampling) -> None:
    """An option for each declared parameter, with the values of `defaults`."""
    for name, each in parameters_of(type(defaults)).items():
        option = each.option or f"--{name.replace('_', '-')}"
        if each.kind is bool:
            parser.add_argument(option, dest=name, action="store_false", help=each.help)
            continue
        default = "the method's" if each.optional else "%(default)s"
        parser.add_argument(
            option,
            dest=name,
            type=each.kind,
            default=getattr(defaults, name),
            metavar=each.metavar,
            help=f"{each.help} ({default})".strip(),
        )


def parse_weights(text: str) -> dict[str, float]:
    """ "positive=1,sports=0.5" -> {"positive": 1.0, "sports": 0.5}; an empty text is no weights."""
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (piece.strip() for piece in part.partition("="))
        try:
            value = float(number)
        except ValueError:
            raise ComposerError(
                f"Write --weights as name=number, comma-separated, like positive=1,sports=0.5; "
                f"{part[:60]!r} is not."
            ) from None
        if name in weights:
            raise ComposerError(f"--weights names {name[:60]!r} twice; keep one of them.")
        weights[name] = value
    return weights


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """ "1,0.5,0" -> (1.0, 0.5, 0.0)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ComposerError(
            f"{option} takes numbers separated by commas, like 1,0.5,0; got {text[:60]!r}."
        ) from None


def parse_names(text: str | None) -> tuple[str, ...] | None:
    """ "a, b" -> ("a", "b"); None stays None, which means all."""
    return None if text is None else tuple(filter(None, (part.strip() for part in text.split(","))))


def load_engine(args: argparse.Namespace) -> Engine:
    """The catalog's base with the adapters that fit. Those that do not are named on stderr."""
    from composer.engine.engine import Engine

    engine = Engine.from_catalog(args.catalog, args.base)
    for report in engine.reports:
        if not report.ok:
            print(f"composer: left out {report}", file=sys.stderr)
    return engine


def write_json(answer: Mapping[str, object], out: TextIO) -> None:
    """One line of JSON. Arrays become lists, NaN becomes null."""
    json.dump(to_jsonable(answer), out, allow_nan=False)
    out.write("\n")


def output_folder(option: str, folder: Path) -> Path:
    """The folder, made if need be. Raises ComposerError where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as fault:
        raise ComposerError(f"{option} cannot be written. {sentence(fault, '', paths=True)}") from fault
    return folder
