"""composer export: writes a mix as one plain PEFT adapter."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TextIO

from composer.cli.options import (
    add_common,
    add_composition,
    load_engine,
    output_folder,
    read_composition,
    write_json,
)


def command(commands) -> None:
    """Register `export` with the shell's subcommands."""
    parser = commands.add_parser(
        "export", help="write a mix as one plain PEFT adapter, gates and curves baked in"
    )
    add_common(parser)
    add_composition(parser)
    parser.add_argument("--prompt", help="for methods whose gates depend on it")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument(
        "--export-rank",
        type=int,
        metavar="R",
        help="cut every site to this rank, for runtimes that want one (exact, with ranks as they come)",
    )
    parser.add_argument(
        "--gguf",
        action="store_true",
        help="write adapter.gguf too, as llama.cpp reads it",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    composition = read_composition(args)
    folder = output_folder("--out", args.out)
    engine = load_engine(args)
    from composer.engine.export import export

    baked = export(engine, composition, folder, args.prompt, args.export_rank, gguf=args.gguf)
    ranks = {int(own.A.shape[0]) for own in baked.adapter.values()}
    if args.json:
        answer = {
            "folder": str(folder),
            "sites": len(baked.adapter),
            "ranks": sorted(ranks),
            "kept": baked.kept,
        }
        write_json(answer, out)
    else:
        cut = f", {baked.kept:.1%} of the squared norm kept" if args.export_rank else ""
        words = " to ".join(str(each) for each in sorted({min(ranks), max(ranks)}))
        out.write(f"{len(baked.adapter)} sites of rank {words}{cut}: {folder}\n")
    return 0
