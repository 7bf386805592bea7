"""What every subcommand takes, and how each reads text into values. Imports nothing heavy."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.fault_messages import sentence
from composer.methods import METHODS

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
    parser.add_argument("--strength", type=float, default=1.0, help="multiplies every gate (%(default)s)")
    parser.add_argument(
        "--bands", default="1,1,1", metavar="E,M,L", help="multipliers of the early, middle and late layers"
    )
    parser.add_argument(
        "--blend", type=float, default=1.0, help="fusions: 0 plain sum .. 1 fusion weights alone"
    )
    parser.add_argument(
        "--scale", default="unit", help="fusions: unit (mean multiplier 1) or paper (alpha itself)"
    )
    parser.add_argument(
        "--contrast", type=float, default=1.0, help="contrasts: how much of the opposites to subtract"
    )
    parser.add_argument(
        "--kl-tokens", dest="tokens", default="last", help="kl: read at the prompt's last token, or all"
    )
    parser.add_argument(
        "--live",
        type=int,
        default=0,
        metavar="K",
        help="fusions: read anew after every K tokens (0: never); what was read before keeps its old weights",
    )
    parser.add_argument("--rank", type=int, help="merges: of the merged adapter, 1 to 4096 (the usual)")
    parser.add_argument("--density", type=float, help="merges: share of the entries left (the usual)")
    parser.add_argument("--core", type=float, help="core: share of the entries that are an adapter's core")
    parser.add_argument("--omega", type=float, help="core: how far each next adapter pulls, 0 to 1")
    parser.add_argument(
        "--no-norm", dest="norm", action="store_false", help="kl: lens without the final norm"
    )


def read_composition(args: argparse.Namespace) -> Composition:
    """What `add_composition` was given. Raises ComposerError for what no Composition can hold."""
    return Composition(
        weights=parse_weights(args.weights),
        method=args.method,
        strength=args.strength,
        bands=parse_numbers("--bands", args.bands),
        blend=args.blend,
        scale=args.scale,
        contrast=args.contrast,
        norm=args.norm,
        tokens=args.tokens,
        live=args.live,
        rank=args.rank,
        density=args.density,
        core=args.core,
        omega=args.omega,
    )


def add_sampling(parser: argparse.ArgumentParser, defaults: Sampling = Sampling()) -> None:
    """Every field of a Sampling; `read_sampling` makes it."""
    parser.add_argument("--max-new-tokens", type=int, default=defaults.max_new_tokens, help="(%(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=defaults.temperature, help="0 is greedy (%(default)s)"
    )
    parser.add_argument("--top-p", type=float, default=defaults.top_p, help="(%(default)s)")
    parser.add_argument("--top-k", type=int, default=defaults.top_k, help="0 switches it off (%(default)s)")
    parser.add_argument(
        "--repetition-penalty", type=float, default=defaults.repetition_penalty, help="(%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="(%(default)s)")
    parser.add_argument("--time-limit", type=float, default=defaults.time_limit, help="seconds (%(default)s)")


def read_sampling(args: argparse.Namespace) -> Sampling:
    """What `add_sampling` was given. Raises ComposerError for what no Sampling can hold."""
    return Sampling(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        repetition_penalty=args.repetition_penalty,
        seed=args.seed,
        time_limit=args.time_limit,
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


def output_folder(option: str, folder: Path) -> Path:
    """The folder, made if need be. Raises ComposerError where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as fault:
        raise ComposerError(f"{option} cannot be written. {sentence(fault, '', paths=True)}") from fault
    return folder
