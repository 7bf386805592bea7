"""What every subcommand takes, and how each reads text into values. Imports nothing heavy."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from composer.core.composition import Composition, Sampling
from composer.core.curves import PRESETS
from composer.core.errors import ComposerError
from composer.core.fault_messages import sentence
from composer.core.jsonable import to_jsonable
from composer.core.parameters import parameters_of
from composer.methods import METHODS

if TYPE_CHECKING:
    from composer.engine.engine import Engine

CATALOG = "adapters.yaml"
V = TypeVar("V")


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
    parser.add_argument(
        "--curves",
        default="",
        metavar="NAME=A:B:...,...",
        help="multipliers of an adapter's weight over the layers, first layer first, with straight lines "
        f"between them; or one of {', '.join(PRESETS)}",
    )
    parser.add_argument(
        "--schedule",
        default="",
        metavar="NAME=FIRST-LAST,...",
        help="the new tokens, counted from 1, for which an adapter's weight counts; without LAST to the end",
    )
    _add_parameters(parser, Composition())


def read_composition(args: argparse.Namespace) -> Composition:
    """What `add_composition` was given. Raises ComposerError for values that a Composition cannot have."""
    return Composition(
        weights=parse_weights(args.weights),
        method=args.method,
        bands=parse_numbers("--bands", args.bands),
        curves=parse_curves(args.curves),
        schedule=parse_schedule(args.schedule),
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
    return _by_name(text, "--weights", "name=number", "positive=1,sports=0.5", float)


def parse_curves(text: str) -> dict[str, tuple[float, ...]]:
    """ "sports=0:1,positive=late" -> {"sports": (0.0, 1.0), "positive": PRESETS["late"]}."""

    def anchors(value: str) -> tuple[float, ...]:
        return PRESETS.get(value) or tuple(float(part) for part in value.split(":"))

    return _by_name(
        text, "--curves", "name=number:number or name=preset", "sports=0:0.5:1,positive=late", anchors
    )


def parse_schedule(text: str) -> dict[str, tuple[int, int | None]]:
    """ "sports=10-30,positive=20-" -> {"sports": (10, 30), "positive": (20, None)}."""

    def span(value: str) -> tuple[int, int | None]:
        first, dash, last = value.partition("-")
        if not dash:
            raise ValueError(value)
        return int(first), int(last) if last.strip() else None

    return _by_name(text, "--schedule", "name=first-last", "sports=10-30,positive=20-", span)


def _by_name(text: str, option: str, form: str, example: str, read: Callable[[str], V]) -> dict[str, V]:
    values: dict[str, V] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            read_value = read(value)
        except ValueError:
            raise ComposerError(
                f"Write {option} as {form}, comma-separated, like {example}; {part[:60]!r} is not."
            ) from None
        if name in values:
            raise ComposerError(f"{option} names {name[:60]!r} twice; keep one of them.")
        values[name] = read_value
    return values


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
