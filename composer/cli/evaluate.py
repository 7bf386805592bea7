"""composer evaluate: does each adapter do its job alone?

Imports nothing heavy until it runs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from composer.cli import judges as judges_cli
from composer.cli.options import add_common, output_folder, parse_names
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message


def command(commands) -> None:
    """Register `evaluate` with the shell's subcommands."""
    parser = commands.add_parser("evaluate", help="judge and measure the base and every adapter alone")
    add_common(parser)
    judges_cli.add_judges(parser)
    judges_cli.add_lora_judges(parser)
    parser.add_argument(
        "--second-model",
        metavar="ID_OR_FOLDER",
        help="a causal language model to measure perplexity under too",
    )
    parser.add_argument("--adapters", metavar="NAME,...", help="which adapters (all)")
    parser.add_argument("--prompts", type=Path, help="a file with one prompt a line (the 35 of PPLM)")
    parser.add_argument(
        "--part", choices=("development", "report"), help="only the file's prompts of this part of the study"
    )
    parser.add_argument("--most-prompts", type=int, metavar="N", help="of the part the first N by hash (all)")
    parser.add_argument("--seeds", type=int, default=3, help="texts per prompt (%(default)s)")
    parser.add_argument("--batch", type=int, default=35, help="texts generated together (%(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/adapters"),
        help="texts and table; a run goes on from them (%(default)s)",
    )
    parser.add_argument(
        "--write-cards", action="store_true", help="put each adapter's row into its model card"
    )
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="FOLDER",
        help="another run's --out, such as of the same base in full, whose rows the cards get too",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    most = args.most_prompts
    if min(args.seeds, args.batch, 1 if most is None else most) < 1:
        raise ComposerError("--seeds, --batch and --most-prompts must be at least 1.")
    if most is not None and not args.part:
        raise ComposerError("--most-prompts is of a part; choose one with --part.")

    from composer.evaluation.prompts import BUNDLED, load_prompts, prompts_of

    prompts = load_prompts(args.prompts or BUNDLED)
    if args.part and not (prompts := prompts_of(prompts, args.part, most)):
        raise ComposerError(f"No prompt of the file is of the {args.part} part; give more prompts.")

    from tqdm import tqdm

    from composer.core.document import markdown
    from composer.engine.engine import Engine
    from composer.evaluation import fluency, report, style_markers
    from composer.evaluation.adapter_table import SAMPLING, make_texts, plan, summarise
    from composer.evaluation.judges import panel
    from composer.evaluation.store import Store
    from composer.evaluation.texts import BASE

    output_folder("--out", args.out)
    beside = [report.FinishedRun.load(args.beside)] if args.beside else []
    judges, lora = judges_cli.judges(args), judges_cli.lora_judges(args)
    # The table is by the judges that read words in their order, where there are any.
    leading = [next((each for each in lora if each.attribute == own.attribute), own) for own in judges]
    others = (*judges_cli.hub_judges(args), *lora)
    engine = Engine.from_catalog(args.catalog, args.base)
    names = parse_names(args.adapters) or engine.names
    if strange := [name for name in names if name not in engine.names]:
        raise ComposerError(unknown_name_message("adapter", strange[0], engine.names))
    second = fluency.second_model(args.second_model) if args.second_model else None
    tasks = plan((BASE, *names), prompts, args.seeds)
    with tqdm(total=len(tasks), unit="text", file=sys.stderr) as bar:
        texts = make_texts(engine, tasks, Store(args.out), batch=args.batch, progress=bar.update)
    rows = summarise(texts, leading)
    with tqdm(total=len(texts) if second else 0, unit="text", file=sys.stderr, disable=not second) as bar:
        read = fluency.measure_fluency(texts, engine, second, bar.update)
    panels = judges_cli.panels(texts, judges, others)
    markers = style_markers.measure_style_markers(texts)

    setting = report.Setting(
        engine.base.id,
        engine.base.spec.quantization,
        len(prompts),
        args.seeds,
        SAMPLING,
        str(engine.base.device),
        _command(args),
    )
    table = markdown(
        [
            *report.blocks(rows, leading, setting),
            *style_markers.blocks(markers),
            *fluency.blocks(read, args.second_model),
            *(block for each in panels for block in panel.blocks(each)),
        ]
    )
    answer = report.as_object(rows, leading, setting) | {
        "fluency": [asdict(row) for row in read],
        "panels": [asdict(each) for each in panels],
        "signs": [asdict(marker) for marker in markers],
    }
    (args.out / "table.md").write_text(table, "utf-8")
    (args.out / report.TABLE).write_text(json.dumps(answer, indent=1, allow_nan=False), "utf-8")
    if args.write_cards:
        runs = [report.FinishedRun(rows, setting), *beside]
        sources = {spec.name: Path(spec.source) for spec in engine.snapshot.adapters}
        for row in rows[1:]:
            card = sources[row.subject] / "README.md"
            own = [marker for marker in markers if marker.style == row.subject]
            if not report.write_card(card, row.subject, runs, leading, style_markers.blocks(own)):
                print(f"{row.subject} has no model card with a place for its figures", file=sys.stderr)
    print(json.dumps(answer, allow_nan=False) if args.json else table, file=out)
    return 0


def _command(args: argparse.Namespace) -> str:
    """What to type to get the same table; the folders are the reader's own."""
    words = ["python", "-m", "composer", "evaluate", "--seeds", str(args.seeds)]
    for option in ("base", "adapters", "part", "most_prompts", "lora_judges"):
        if value := getattr(args, option):
            words += [f"--{option.replace('_', '-')}", str(value)]
    places = (("--data DATA", args.data), ("--prompts FILE", args.prompts))
    return " ".join([shlex.join(words), *(words for words, given in places if given)])
