"""composer bases: the catalog's bases, and how much memory each takes, without loading any."""

from __future__ import annotations

import argparse
from typing import TextIO

from composer.cli.bases.report import BaseRow, details, table, values
from composer.cli.options import add_common, write_json
from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError

# Slots, and tokens of a text.
MOST = 10_000_000


def command(commands) -> None:
    """Register `bases` with the shell's subcommands."""
    parser = commands.add_parser(
        "bases", help="the catalog's bases and the memory that each takes; loads and downloads no weights"
    )
    add_common(parser)
    parser.add_argument("--slots", type=int, default=8, help="texts at the same time (%(default)s)")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of each text (%(default)s)")
    parser.add_argument("--offline", action="store_true", help="ask the Hub for no config, a few kB a base")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    from composer.adapters.catalog import load_catalog

    for option, number in (("--slots", args.slots), ("--tokens", args.tokens)):
        if not 1 <= number <= MOST:
            raise ComposerError(f"{option} must be a number between 1 and {MOST}; got {number}.")
    catalog = load_catalog(args.catalog)
    if args.base:
        row = _row(catalog.base(args.base), args.offline)
        if row.estimate is None:
            raise ComposerError(row.fault)
        rows = [row]
    else:
        rows = [_row(spec, args.offline) for spec in catalog.bases.values()]
    tokens = args.slots * args.tokens
    if args.json:
        write_json({"default": catalog.default, "bases": [values(row, tokens) for row in rows]}, out)
    elif args.base:
        print(details(rows[0], args.slots, args.tokens), file=out)
    else:
        print(table(rows, catalog.default, args.slots, args.tokens), file=out)
    return 0


def _row(spec: BaseSpec, offline: bool) -> BaseRow:
    from composer.model.checkpoints.config import find_config
    from composer.model.checkpoints.memory_estimate import estimate_memory

    try:
        config, place = find_config(spec, offline)
        return BaseRow(spec, place, str(config.model_type), estimate_memory(config, spec))
    except ComposerError as fault:
        return BaseRow(spec, fault=str(fault))
