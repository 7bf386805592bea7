"""python -m composer bench: what composing costs, side by side. Imports nothing heavy until it runs."""

from __future__ import annotations

import argparse
import json
import shlex
import warnings
from pathlib import Path
from typing import TextIO

from composer.cli.options import add_common, parse_names
from composer.core.errors import ComposerError

# composer/ alone is what a wheel installs.
MISSING = "The benchmarks come with the repository, not with the package: clone it and run `make bench`."


def command(commands) -> None:
    """Register `bench` with the shell's subcommands."""
    parser = commands.add_parser("bench", help="measure speed beside PEFT and the machine's own limits")
    add_common(parser)
    parser.add_argument("--quick", action="store_true", help="fewer tokens and rounds: a first look")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("benchmarks"),
        help="folder of RESULTS.md and of each device's last figures (%(default)s)",
    )
    parser.add_argument("--only", metavar="NAME,...", help=f"some of {', '.join(_sections())} (all)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=7,
        help="how long the section gpu may take; another run goes on where one ended (%(default)s)",
    )
    parser.add_argument("--family-folder", type=Path, metavar="PATH", help="the base of the section family")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    if not _sections():
        raise ComposerError(MISSING)
    chosen = _chosen(args.only)

    from transformers.utils import logging as progress

    try:
        from benchmarks.plan import FULL, QUICK
        from benchmarks.run import Places, run
        from benchmarks.store import publish, stored
    except ImportError as fault:
        raise ComposerError(
            f"The bench needs {fault.name}; use `make bench`, or pip install -r requirements-dev.txt."
        ) from fault

    if not args.verbose:
        # Other libraries' loading bars and deprecations would bury what is being measured.
        progress.disable_progress_bar()
        warnings.simplefilter("ignore")
    # Before anything is measured: a folder that cannot be used would cost the figures.
    earlier = stored(args.out)
    places = Places(args.out, args.minutes, args.family_folder)
    result = run(args.catalog, args.base, chosen, QUICK if args.quick else FULL, places)
    result["command"] = _command(args)
    markdown = publish(args.out, result, earlier)
    print(json.dumps(result, allow_nan=False) if args.json else markdown, file=out)
    return 0


def _sections() -> tuple[str, ...]:
    """The names of the benchmarks' sections; none where there are no benchmarks."""
    try:
        from benchmarks.plan import SECTIONS
    except ImportError:
        return ()
    return SECTIONS


def _chosen(text: str | None) -> tuple[str, ...]:
    names, sections = parse_names(text), _sections()
    if names is None:
        return sections
    unknown = [name for name in names if name not in sections]
    if unknown or not names:
        wrong = f"; {unknown[0][:40]!r} is none of them" if unknown else ""
        raise ComposerError(f"--only takes {', '.join(sections)}, separated by commas{wrong}.")
    return tuple(name for name in sections if name in names)


def _command(args: argparse.Namespace) -> str:
    """What to type to measure the same again; folders are the reader's own."""
    words = ["python", "-m", "composer", "bench", *(["--quick"] if args.quick else [])]
    for option in ("base", "only"):
        if value := getattr(args, option):
            words += [f"--{option}", value]
    return shlex.join(words)
