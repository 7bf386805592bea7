"""composer fetch: brings a base onto this machine and shows its terms. Installs nothing."""

from __future__ import annotations

import argparse
import sys
from typing import TextIO

from composer.cli.options import CATALOG, write_json


def command(commands) -> None:
    """Register `fetch` with the shell's subcommands."""
    parser = commands.add_parser("fetch", help="bring a base of the catalog onto this machine")
    parser.add_argument("base", metavar="BASE", help="a base named in the catalog")
    parser.add_argument("--catalog", default=CATALOG, help="the catalog of bases and adapters (%(default)s)")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout, everything else on stderr"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what pip says")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    from composer.adapters.catalog import load_catalog

    spec = load_catalog(args.catalog).base(args.base)
    if spec.notice:
        print(spec.notice, file=sys.stderr)

    from composer.model.checkpoints.files import fetch_base, is_here

    fetched = not is_here(spec)
    fetch_base(spec, lambda doing, share: print(f"{share:4.0%} {doing}", file=sys.stderr))
    if args.json:
        notice = None if spec.notice is None else {"text": spec.notice.text, "url": spec.notice.url}
        write_json({"base": spec.id, "name": spec.name, "fetched": fetched, "notice": notice}, out)
    else:
        print(f"{spec.id} {'is here now' if fetched else 'was here already'}: --base {spec.name}", file=out)
    return 0
