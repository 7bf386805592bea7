"""python -m composer study: which way of composing works? Imports nothing heavy until it runs."""

from __future__ import annotations

import argparse
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from composer.cli import judges as judges_cli
from composer.cli.options import add_common, output_folder, parse_names, parse_numbers
from composer.core.composition import Sampling
from composer.core.errors import ComposerError

if TYPE_CHECKING:
    from composer.engine.engine import Engine
    from composer.evaluation.store import Worker
    from composer.study.design.environment import StudyEnvironment

STRENGTHS = "0.5,0.75,1,1.25,1.5"


def command(commands) -> None:
    """Register `study` with the shell's subcommands."""
    parser = commands.add_parser("study", help="compare every way of composing: texts, judges, report")
    add_common(parser)
    judges_cli.add_judges(parser)
    parser.add_argument("--prompts", type=Path, help="a file with one prompt a line (the 35 of PPLM)")
    parser.add_argument("--arms", metavar="NAME,...", help="which ways of composing (all)")
    parser.add_argument("--targets", metavar="NAME,...", help="targets or kinds of them (all)")
    parser.add_argument("--strengths", default=STRENGTHS, metavar="S,...", help="(%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="texts per prompt (%(default)s)")
    parser.add_argument("--scored", type=int, default=1, help="of them scored for fluency (%(default)s)")
    parser.add_argument(
        "--sweep-seeds",
        type=int,
        default=1,
        help="of them at strengths other than 1, and with three modules (%(default)s)",
    )
    parser.add_argument(
        "--sweep-prompts", type=int, metavar="N", help="and there only the first N prompts (all)"
    )
    parser.add_argument("--tokens", type=int, default=60, help="new tokens per text (%(default)s)")
    parser.add_argument("--slots", type=int, default=64, help="texts made at a time (%(default)s)")
    parser.add_argument(
        "--modules", metavar="DIR", help="the study's own modules (assets/adapters beside the catalog)"
    )
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="(%(default)s)")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="a cluster's (ray on this machine)")
    parser.add_argument("--ray-workers", type=int, default=1, help="engines at work in ray (%(default)s)")
    parser.add_argument("--ray-cpus", type=int, default=1, help="cores of each (%(default)s)")
    parser.add_argument("--ray-gpus", type=float, default=0, help="GPUs of each (%(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/study"),
        help="texts and report; a run goes on from them (%(default)s)",
    )
    parser.add_argument("--report", action="store_true", help="make no more texts, tell what there is")
    parser.add_argument("--pack", action="store_true", help="compress the folder's records at the end")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    for option in ("seeds", "scored", "sweep_seeds", "sweep_prompts", "slots", "ray_workers", "ray_cpus"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise ComposerError(f"--{option.replace('_', '-')} must be at least 1.")
    sampling = Sampling(max_new_tokens=args.tokens, time_limit=3600)

    from composer.evaluation.prompts import BUNDLED, load_prompts
    from composer.study.pipeline import StudyConfig

    config = StudyConfig(
        load_prompts(args.prompts or BUNDLED),
        parse_names(args.arms),
        parse_names(args.targets),
        tuple(dict.fromkeys(parse_numbers("--strengths", args.strengths))),
        args.seeds,
        sampling,
        args.scored,
        args.sweep_seeds,
        args.sweep_prompts,
    )
    output_folder("--out", args.out)
    judges = (*judges_cli.judges(args), *judges_cli.hub_judges(args))

    from tqdm import tqdm

    from composer.evaluation.store import Store
    from composer.study.design.environment import StudyEnvironment
    from composer.study.pipeline import check_judges, prepare, report, write

    environment = StudyEnvironment(args.catalog, args.base, args.modules)
    engine = environment.engine()
    study_plan = prepare(engine, config)
    check_judges(study_plan, judges)
    store = Store(args.out)
    if not args.report:
        total, done = len(study_plan.jobs), len(store.finished(study_plan.jobs))
        with tqdm(total=total, initial=done, unit="text", file=sys.stderr, smoothing=0.02) as bar:
            store.run_pending(study_plan.jobs, _worker(args, environment, engine, sampling), bar.update)
    found = report(engine, config, study_plan, store, judges, _command(args))
    write(found, args.out)
    if args.pack:
        store.pack()
    print(found.json if args.json else found.markdown, file=out, end="")
    return 0


def _worker(
    args: argparse.Namespace, environment: StudyEnvironment, engine: Engine, sampling: Sampling
) -> Worker:
    if args.engine == "local":
        from composer.evaluation.generation import generate_texts

        return lambda jobs, unscored: generate_texts(engine, jobs, unscored, sampling, args.slots)

    from composer.study.ray_worker import Cluster, ray_work

    cluster = Cluster(args.ray_address, args.ray_workers, args.ray_cpus, args.ray_gpus)
    return partial(ray_work, cluster, environment, sampling=sampling, slots=args.slots)


def _command(args: argparse.Namespace) -> str:
    """What to type to get the same report; the folders are the reader's own."""
    words = ["python", "-m", "composer", "study", "--seeds", str(args.seeds), "--tokens", str(args.tokens)]
    if args.sweep_seeds != 1:
        words += ["--sweep-seeds", str(args.sweep_seeds)]
    if args.sweep_prompts:
        words += ["--sweep-prompts", str(args.sweep_prompts)]
    if args.scored != 1:
        words += ["--scored", str(args.scored)]
    for option in ("base", "arms", "targets"):
        if value := getattr(args, option):
            words += [f"--{option}", value]
    if args.strengths != STRENGTHS:
        words += ["--strengths", args.strengths]
    folders = ("prompts", "judges", "data", "modules", "hub_judges")
    own = [f"--{option.replace('_', '-')} ..." for option in folders if getattr(args, option)]
    return " ".join([shlex.join(words), *own])
