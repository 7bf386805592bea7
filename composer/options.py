"""What every subcommand takes, and how each reads text into values. Imports nothing heavy."""

from __future__ import annotations

import argparse

from composer.spec import ComposerError

CATALOG = "adapters.yaml"


def add_common(parser: argparse.ArgumentParser) -> None:
    """--catalog, --base, --json and --verbose, the same for every subcommand that loads an engine."""
    parser.add_argument("--catalog", default=CATALOG, help="the catalog of bases and adapters (%(default)s)")
    parser.add_argument("--base", help="a base named in the catalog (the catalog's default)")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout, everything else on stderr"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is loaded and from where")


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
