"""composer fuse: prints a prompt's KL fusion weights, layer by layer."""

from __future__ import annotations

import argparse
from typing import TextIO

from composer.cli.options import add_common, load_engine, parse_names, write_json


def command(commands) -> None:
    """Register `fuse` with the shell's subcommands."""
    parser = commands.add_parser("fuse", help="a prompt's KL fusion weights, layer by layer")
    add_common(parser)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--adapters", metavar="NAME,...", help="which adapters share the weight (all)")
    parser.add_argument("--no-norm", dest="norm", action="store_false", help="lens without the final norm")
    parser.add_argument(
        "--tokens", choices=("last", "all"), default="last", help="which of the prompt's (%(default)s)"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    engine = load_engine(args)
    names = parse_names(args.adapters) or engine.names
    fusion = engine.fusion(args.prompt, names, args.norm, args.tokens)
    from composer.analysis.norm_correlation import alpha_norm_correlation

    correlation = alpha_norm_correlation(engine, fusion, names)
    if args.json:
        answer = {
            "kl": fusion.kl,
            "alpha": fusion.alpha,
            "adapters": names,
            "layers": engine.model.layers,
            "undecided": fusion.undecided,
            "norm_correlation": correlation,
            "base": engine.base.id,
            "base_source": engine.base.source,
        }
        write_json(answer, out)
        return 0
    width = max(8, *(len(name) for name in names)) if names else 8
    print("layer  " + "  ".join(f"{name:>{width}}" for name in names), file=out)
    for layer, (row, undecided) in enumerate(zip(fusion.alpha, fusion.undecided, strict=True)):
        cells = "  ".join(f"{value:>{width}.3f}" for value in row)
        print(f"{layer:>5}  {cells}{'  undecided' if undecided else ''}", file=out)
    if correlation is not None:
        print(f"correlation with the adapters' own norms: {correlation:.2f}", file=out)
    return 0
