"""composer methods: prints docs/methods.md."""

from __future__ import annotations

import argparse
from typing import TextIO


def command(commands) -> None:
    """Register `methods` with the shell's subcommands."""
    parser = commands.add_parser(
        "methods", help="every method: formula, source, parameters (docs/methods.md)"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    from composer.methods.reference import methods_markdown

    out.write(methods_markdown())
    return 0
