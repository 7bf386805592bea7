"""composer check: says whether an adapter fits the base."""

from __future__ import annotations

import argparse
from typing import TextIO

from composer.cli.options import add_common, load_engine, write_json


def command(commands) -> None:
    """Register `check` with the shell's subcommands."""
    parser = commands.add_parser("check", help="does an adapter fit the base? reads no weights")
    add_common(parser)
    parser.add_argument("source", metavar="REPO_OR_DIR", help="owner/name on the Hub, or a folder")
    parser.add_argument("--revision", help="a commit of the repo (the newest)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    report = load_engine(args).check(args.source, args.revision)
    if args.json:
        answer = {
            "ok": report.ok,
            "reasons": report.reasons,
            "ranks": report.ranks,
            "source": report.source,
            "revision": report.revision,
            "name": report.name,
            "bytes": report.bytes,
        }
        write_json(answer, out)
    else:
        print(report, file=out)
    return 0 if report.ok else 1
