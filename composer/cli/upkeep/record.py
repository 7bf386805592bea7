"""composer record: runs the catalog's presets and keeps them, for the page to play."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from composer.cli.options import add_common, output_folder, write_json
from composer.core.errors import ComposerError
from composer.core.machine import machine_line


def command(commands) -> None:
    """Register `record` with the shell's subcommands."""
    parser = commands.add_parser(
        "record", help="run the catalog's presets and keep them, so that the page plays them when it opens"
    )
    add_common(parser)
    parser.add_argument("--out", type=Path, help="the folder of the recordings (the page's own)")
    parser.add_argument("--tokens", type=int, default=60, help="tokens of each text (%(default)s)")
    parser.add_argument("--only", metavar="LABEL", help="record this preset alone")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    from composer.adapters.catalog import load_catalog
    from composer.core.composition import Sampling
    from composer.engine.engine import Engine
    from composer.ui.context import PageContext
    from composer.ui.recordings import file_name, folder_of, record, save_recording
    from composer.ui.runners.batched import BatchedRunner
    from composer.ui.settings import Settings
    from composer.ui.validation import Request

    sampling = Sampling(max_new_tokens=args.tokens)
    catalog = load_catalog(args.catalog)
    folder = output_folder("--out", args.out or folder_of(catalog.base(args.base), catalog.default))
    engine = Engine.from_catalog(args.catalog, args.base)
    made = []
    with closing(BatchedRunner(engine, Settings(max_new_tokens=args.tokens))) as runner:
        context = PageContext(runner, Settings())
        presets = [each for each in context.examples if each.label and args.only in (None, each.label)]
        if not presets:
            raise ComposerError("The catalog has no preset with that label; see its examples.")
        for example in presets:
            request = Request(
                example.prompt, context.composition_of(example), replace(sampling, seed=example.seed)
            )
            recording = record(runner, request, machine_line())
            path = folder / file_name(example.label)
            save_recording(recording, path)
            made.append({"label": example.label, "file": path.name, "text": recording.steps[-1].text})
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB", file=sys.stderr)
    if args.json:
        write_json({"recordings": made}, out)
    else:
        for each in made:
            out.write(f"{each['label']}: {each['text']!r}\n")
    return 0
