"""composer dose: sweeps a weight of a mix, or two, and says where it is best."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from composer.cli.options import (
    add_common,
    add_composition,
    add_sampling,
    load_engine,
    output_folder,
    read_composition,
    read_sampling,
    write_json,
)
from composer.core.composition import Sampling
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message

if TYPE_CHECKING:
    from composer.evaluation.dose.sweep import Axis, Dose


def command(commands) -> None:
    """Register `dose` with the shell's subcommands."""
    parser = commands.add_parser("dose", help="sweep a weight of a mix, or two, and say where it is best")
    add_common(parser)
    add_composition(parser)
    parser.add_argument(
        "--sweep",
        action="append",
        required=True,
        metavar="NAME=LOW:HIGH:COUNT",
        help="an adapter and its weights, such as sports=0:2:9; twice for every pair of weights",
    )
    parser.add_argument("--prompts", type=Path, help="a file with one prompt a line (the 35 of PPLM)")
    parser.add_argument("--seeds", type=int, default=1, help="texts per prompt and point (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="texts written together (%(default)s)")
    parser.add_argument("--out", type=Path, help="a folder for dose.csv and texts.csv")
    add_sampling(parser, Sampling(max_new_tokens=40))
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    composition, sampling = read_composition(args), read_sampling(args)
    if args.seeds < 1 or args.batch < 1:
        raise ComposerError("--seeds and --batch must be at least 1.")
    folder = None if args.out is None else output_folder("--out", args.out)
    from composer.evaluation.dose.sweep import Dose, DosePlan, make_deciders
    from composer.evaluation.generation import GenerationJob, Score, generate_texts
    from composer.evaluation.judges.serialization import load_judges
    from composer.evaluation.prompts import BUNDLED, load_prompts

    axes, prompts = tuple(map(_axis, args.sweep)), load_prompts(args.prompts or BUNDLED)
    seeds = tuple(sampling.seed + place for place in range(args.seeds))
    plan = DosePlan(composition, axes, prompts, seeds)
    engine = load_engine(args)
    for axis in axes:
        if axis.adapter not in engine.names:
            raise ComposerError(unknown_name_message("adapter", axis.adapter, engine.names))
    dose = Dose(plan, make_deciders(load_judges()))
    jobs = [
        GenerationJob(
            str(place), task.prompt, task.prompt, task.seed, plan.composition_at(task.point).as_dict()
        )
        for place, task in enumerate(plan.tasks)
    ]
    from tqdm import tqdm

    texts: dict[str, str] = {}
    with tqdm(total=len(jobs), desc="texts", disable=None, file=sys.stderr) as bar:
        for each in generate_texts(engine, jobs, (), sampling, args.batch):
            if isinstance(each, Score):
                dose.add(int(each.key), texts[each.key], each.perplexity)
            elif each.fault is not None:
                raise ComposerError(each.fault)
            else:
                texts[each.key] = each.continuation
                bar.update()
    if folder is not None:
        _write(folder, dose)
    _tell(dose, args.json, out)
    return 0


def _axis(text: str) -> Axis:
    """ "sports=0:2:9" -> nine weights from 0 to 2."""
    from composer.evaluation.dose.sweep import Axis

    name, _, span = text.partition("=")
    try:
        low, high, count = span.split(":")
        numbers = float(low), float(high), int(count)
    except ValueError:
        raise ComposerError(
            f"Write --sweep as name=low:high:count, like sports=0:2:9; {text[:60]!r} is not."
        ) from None
    return Axis.between(name.strip(), *numbers)


def _tell(dose: Dose, as_json: bool, out: TextIO) -> None:
    from composer.core.document import plain_text, table

    head, rows = dose.table()
    spot = dose.sweet_spot()
    if as_json:
        answer = {"head": head, "rows": rows, "sweet_spot": spot.point, "sentence": spot.sentence}
        write_json(answer, out)
        return
    cells = [["" if cell is None else f"{cell:.3g}" for cell in row] for row in rows]
    out.write(plain_text([table(head, cells)]) + f"\n{spot.sentence}\n")


def _write(folder: Path, dose: Dose) -> None:
    head, rows = dose.table()
    with (folder / "dose.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    tasks, points = dose.plan.tasks, dose.plan.points
    with (folder / "texts.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(axis.adapter for axis in dose.plan.axes), "prompt", "seed", "text", "perplexity"])
        for place, (text, perplexity) in sorted(dose.texts.items()):
            task = tasks[place]
            writer.writerow([*points[task.point], task.prompt, task.seed, text, perplexity])
