"""composer explain: shows why a composition does what it does, on one prompt."""

from __future__ import annotations

import argparse
from typing import TextIO

from composer.cli.options import (
    add_common,
    add_composition,
    add_sampling,
    load_engine,
    read_composition,
    read_sampling,
    write_json,
)
from composer.core.composition import Sampling


def command(commands) -> None:
    """Register `explain` with the shell's subcommands."""
    parser = commands.add_parser("explain", help="why a composition does what it does, on one prompt")
    add_common(parser)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--text", help="the continuation to explain (one is generated)")
    add_composition(parser)
    # A page of tokens is enough to read, and greedy shows what the composition wants most.
    add_sampling(parser, Sampling(max_new_tokens=30, temperature=0))
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    composition, sampling = read_composition(args), read_sampling(args)
    engine = load_engine(args)

    from composer.analysis.explain import explain
    from composer.analysis.text_report import as_text

    found = explain(engine, args.prompt, composition, sampling, args.text)
    if args.json:
        write_json(found.to_json(), out)
    else:
        print(as_text(found), file=out)
    return 0
