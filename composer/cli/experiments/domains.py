"""python -m composer domains: which way finds the right adapter, on held-out texts and without a judge.

Imports nothing heavy until it runs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from composer.cli.options import add_common, output_folder, parse_names
from composer.core.errors import ComposerError

if TYPE_CHECKING:
    from composer.engine.engine import Engine

PER_DOMAIN = 48


def command(commands) -> None:
    """Register `domains` with the shell's subcommands."""
    parser = commands.add_parser(
        "domains", help="compare ways of composing by the loss on held-out texts of several domains"
    )
    add_common(parser)
    parser.add_argument("--data", type=Path, required=True, help="folder with the labelled text")
    parser.add_argument(
        "--per-domain", type=int, default=PER_DOMAIN, metavar="N", help="passages of each (%(default)s)"
    )
    parser.add_argument("--domains", metavar="NAME,...", help="two or more (those of eight with an adapter)")
    parser.add_argument(
        "--adapters",
        type=Path,
        metavar="DIR",
        help="other adapters: a folder of each domain's name (the catalog's)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/domains"), help="domains.md, .html and .json (%(default)s)"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    if args.per_domain < 2:
        raise ComposerError("--per-domain must be at least 2.")
    if not args.data.is_dir():
        raise ComposerError("--data is not a folder; give the folder that holds the labelled text.")
    output_folder("--out", args.out)

    from tqdm import tqdm

    from composer.core.machine import machine_line
    from composer.study.domains.measure import measure
    from composer.study.domains.passages import QUERY, TOKENS, load_passages
    from composer.study.domains.registry import EIGHT, choose
    from composer.study.domains.report import as_object, write

    names = parse_names(args.domains)
    engine = _engine(args, EIGHT if names is None else names)
    domains = choose(names, engine.names)
    passages = load_passages(domains, args.data, engine.base.tokenizer, args.per_domain)
    began = time.monotonic()
    with tqdm(total=2 * len(passages), file=sys.stderr) as bar:

        def progress(step: str, count: int) -> None:
            bar.set_description(step)
            bar.update(count)

        found = measure(engine, passages, progress)
    minutes = (time.monotonic() - began) / 60
    notes = [
        f"{args.per_domain} passages of each of {len(domains)} domains, {TOKENS} tokens each, of which the "
        f"first {QUERY} are the query: rows that no adapter was trained on, joined where they are shorter. "
        f"Base {engine.base.id}, {engine.base.spec.quantization} quantisation.",
        f"Made by `{_command(args)}` in {minutes:.1f} minutes on {engine.base.device} ({machine_line()}).",
    ]
    text = write(found, notes, args.out)
    print(json.dumps(as_object(found, notes)) if args.json else text, file=out)
    return 0


def _engine(args: argparse.Namespace, names: Sequence[str]) -> Engine:
    """The base with those of the adapters that there are, from the catalog or from --adapters."""
    from composer.engine.engine import Engine

    if args.adapters is None:
        engine = Engine.from_catalog(args.catalog, args.base, only=names, compile_step=False)
    else:
        if not args.adapters.is_dir():
            raise ComposerError("--adapters is not a folder; give one with a folder for each adapter.")
        engine = Engine.from_catalog(args.catalog, args.base, only=(), compile_step=False)
        for name in names:
            if (args.adapters / name).is_dir():
                engine.add_adapter(str(args.adapters / name), name=name)
    for report in engine.reports:
        if not report.ok:
            print(f"composer: left out {report}", file=sys.stderr)
    return engine


def _command(args: argparse.Namespace) -> str:
    """What to type to get the same report; the folders are the reader's own."""
    words = ["python", "-m", "composer", "domains", "--data", "DATA"]
    if args.per_domain != PER_DOMAIN:
        words += ["--per-domain", str(args.per_domain)]
    for option in ("base", "domains"):
        if value := getattr(args, option):
            words += [f"--{option}", value]
    return shlex.join([*words, *(["--adapters", "DIR"] if args.adapters else [])])
