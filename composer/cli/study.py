"""python -m composer study: which way of composing works? Imports nothing heavy until it runs."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from composer.cli import judges as judges_cli
from composer.cli.options import add_common, output_folder, parse_names, parse_numbers
from composer.core.composition import Sampling
from composer.core.errors import ComposerError

if TYPE_CHECKING:
    from composer.engine.engine import Engine
    from composer.evaluation.judges.ngram_judge import Judge
    from composer.evaluation.store import Worker
    from composer.study.design.environment import StudyEnvironment
    from composer.study.reporting.files import Report

STRENGTHS = "0.5,0.75,1,1.25,1.5"
STAGES = ("develop", "report")
TARGETS_PER_PROMPT = 2
CHOICES = "choices.json"


def command(commands) -> None:
    """Register `study` with the shell's subcommands."""
    parser = commands.add_parser("study", help="compare every way of composing: texts, judges, claims")
    add_common(parser)
    judges_cli.add_judges(parser)
    judges_cli.add_lora_judges(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/study"),
        help="the run's folder; a stage goes on from what is there (%(default)s)",
    )
    parser.add_argument("--pack", action="store_true", help="compress the folder's records at the end")
    _add_ways(parser)
    _add_texts(parser)
    _add_ray(parser)
    parser.set_defaults(run=_run)


def _add_ways(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to do", "one of these")
    group.add_argument(
        "--stage", choices=STAGES, help="develop writes choices.json; report reads it and tests the claims"
    )
    group.add_argument("--report", action="store_true", help="tell --out's run again, without a base")
    group.add_argument("--join", metavar="DIR,...", help="one report in --out of several report stages")
    group.add_argument(
        "--merge", metavar="DIR,...", help="one run in --out of several of a base, each of other trainings"
    )
    group.add_argument("--judge-again", action="store_true", help="have --out's texts read by these judges")
    group.add_argument(
        "--rerun", type=float, metavar="SHARE", help="make so much of --out's report stage again, like 0.1"
    )
    group.add_argument(
        "--tables", metavar="FILE,...", help="with --join: write its tables between the marks of these files"
    )


def _add_texts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("texts", "choose on development prompts, claim on report prompts")
    group.add_argument("--choices", type=Path, metavar="FILE", help="the choices of a develop stage")
    group.add_argument(
        "--prompts", metavar="FILE,...", help="files with one prompt a line (the 35 prefixes of PPLM)"
    )
    group.add_argument(
        "--most-prompts", type=int, metavar="N", help="of each file's part the first N by hash (all)"
    )
    group.add_argument(
        "--arms",
        metavar="NAME,...",
        help="ways of composing, main for those of the claims (all; in the report all that have choices)",
    )
    group.add_argument("--targets", metavar="NAME,...", help="pairs of labels, like positive+sports (all)")
    group.add_argument(
        "--targets-per-prompt", type=int, default=TARGETS_PER_PROMPT, metavar="N", help="(%(default)s)"
    )
    group.add_argument(
        "--strengths", default=STRENGTHS, metavar="S,...", help="tried in development (%(default)s)"
    )
    group.add_argument("--seeds", type=int, default=1, help="texts per place (%(default)s)")
    group.add_argument("--tokens", type=int, default=60, help="new tokens per text (%(default)s)")
    group.add_argument("--slots", type=int, default=64, help="texts made at a time (%(default)s)")
    group.add_argument("--modules", metavar="DIR", help="where combined is (assets/adapters of the catalog)")
    group.add_argument(
        "--module-seeds", metavar="DIR,...", help="folders, each with another training of all adapters"
    )


def _add_ray(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="(%(default)s)")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="a cluster's (ray on this machine)")
    parser.add_argument("--ray-workers", type=int, default=1, help="engines at work in ray (%(default)s)")
    parser.add_argument("--ray-cpus", type=int, default=1, help="cores of each (%(default)s)")
    parser.add_argument("--ray-gpus", type=float, default=0, help="GPUs of each (%(default)s)")


def _run(args: argparse.Namespace, out: TextIO) -> int:
    counts = ("seeds", "slots", "ray_workers", "ray_cpus", "most_prompts", "targets_per_prompt")
    for option in counts:
        value = getattr(args, option)
        if value is not None and value < 1:
            raise ComposerError(f"--{option.replace('_', '-')} must be at least 1.")
    ways = {
        _stage: args.stage is not None,
        _join: args.join is not None,
        _merge: args.merge is not None,
        _judge_again: args.judge_again,
        _rerun: args.rerun is not None,
        _tell_run: args.report,
    }
    asked = [way for way, wanted in ways.items() if wanted]
    if len(asked) != 1:
        raise ComposerError("Give one of --stage, --report, --merge, --join, --judge-again and --rerun.")
    if args.tables and args.join is None:
        raise ComposerError("--tables needs --join, whose tables it writes.")
    return asked[0](args, out)


def _stage(args: argparse.Namespace, out: TextIO) -> int:
    from composer.evaluation.prompts import DEVELOPMENT, REPORT, prompts_of
    from composer.evaluation.store import Store
    from composer.study.design.choices import read_choices
    from composer.study.run_record import FILE, write_run
    from composer.study.runs import judge_run
    from composer.study.staged import StageConfig, run_stage

    stage = DEVELOPMENT if args.stage == "develop" else REPORT
    if (stage == REPORT) != (args.choices is not None):
        raise ComposerError(
            "--stage report needs --choices FILE, of a develop stage; no other stage reads it."
        )
    files = (prompts_of(own, stage, args.most_prompts) for own in _prompt_files(args))
    config = StageConfig(
        stage,
        tuple(dict.fromkeys(prompt for own in files for prompt in own)),
        parse_names(args.arms),
        parse_names(args.targets),
        _strengths(args),
        args.seeds,
        args.targets_per_prompt,
        _sampling(args),
        read_choices(args.choices) if args.choices else None,
    )
    config.settings()  # raises for unknown arms before the judges and the base are loaded
    output_folder("--out", args.out)
    judges = _judges(args)
    record = run_stage(
        _environments(args), config, Store(args.out), partial(_worker, args), _bar, _command(args)
    )
    write_run(record, args.out / FILE)
    judge_run(args.out, judges)
    return _tell_run(args, out)


def _rerun(args: argparse.Namespace, out: TextIO) -> int:
    from composer.evaluation.store import Store
    from composer.study.run_record import FILE, RERUN, read_run, write_run
    from composer.study.runs import judge_run
    from composer.study.staged import run_again

    judges = _judges(args)
    again = run_again(
        _environments(args),
        read_run(args.out / FILE),
        args.rerun,
        Store(args.out),
        partial(_worker, args),
        _bar,
        _command(args),
    )
    write_run(again, args.out / RERUN)
    judge_run(args.out, judges)
    return _tell_run(args, out)


def _judge_again(args: argparse.Namespace, out: TextIO) -> int:
    from composer.study.runs import judge_run

    judge_run(args.out, _judges(args), _bar(0, 0, 0))
    return _tell_run(args, out)


def _join(args: argparse.Namespace, out: TextIO) -> int:
    from composer.study.joined import joined
    from composer.study.reporting.files import fill_tables
    from composer.study.runs import load_run

    folders = parse_names(args.join) or ()
    if not folders:
        raise ComposerError("--join takes folders of report stages, separated by commas.")
    output_folder("--out", args.out)
    found = joined([load_run(Path(folder)) for folder in folders])
    for file in parse_names(args.tables) or ():
        fill_tables(Path(file), found)
    return _tell(args, found, out)


def _merge(args: argparse.Namespace, out: TextIO) -> int:
    from composer.study.merged import merge

    folders = parse_names(args.merge) or ()
    if not folders:
        raise ComposerError("--merge takes folders of report stages, separated by commas.")
    output_folder("--out", args.out)
    merge([Path(folder) for folder in folders], args.out)
    return _tell_run(args, out)


def _tell_run(args: argparse.Namespace, out: TextIO) -> int:
    """The report of --out's run, or its choices where it is a develop stage."""
    from composer.evaluation.prompts import DEVELOPMENT, prompt_hash
    from composer.evaluation.store import Store
    from composer.evaluation.verdicts import Verdicts
    from composer.study.design.choices import write_choices
    from composer.study.joined import joined
    from composer.study.reporting.trials import trials_report
    from composer.study.runs import choices_of, load_run

    run = load_run(args.out)
    if args.pack:
        Store(args.out).pack()
        Verdicts(args.out).pack()
    if run.record.stage != DEVELOPMENT:
        return _tell(args, joined([run]), out)
    choices = choices_of(run, [prompt_hash(prompt) for prompt in run.record.prompts])
    write_choices(choices, args.out / CHOICES)
    return _tell(args, trials_report(run, choices), out)


def _tell(args: argparse.Namespace, found: Report, out: TextIO) -> int:
    from composer.study.reporting.files import write

    write(found, args.out)
    print(found.json if args.json else found.markdown, file=out, end="")
    return 0


def _judges(args: argparse.Namespace) -> tuple[Judge, ...]:
    return (*judges_cli.judges(args), *judges_cli.hub_judges(args), *judges_cli.lora_judges(args))


def _sampling(args: argparse.Namespace) -> Sampling:
    return Sampling(max_new_tokens=args.tokens, time_limit=3600)


def _strengths(args: argparse.Namespace) -> tuple[float, ...]:
    return tuple(dict.fromkeys(parse_numbers("--strengths", args.strengths)))


def _prompt_files(args: argparse.Namespace) -> list[tuple[str, ...]]:
    from composer.evaluation.prompts import BUNDLED, load_prompts

    files = parse_names(args.prompts) or (str(BUNDLED),)
    return [load_prompts(Path(file)) for file in files]


def _environments(args: argparse.Namespace) -> list[StudyEnvironment]:
    from composer.study.design.environment import StudyEnvironment

    folders = parse_names(args.module_seeds) or (None,)
    return [StudyEnvironment(args.catalog, args.base, args.modules, folder) for folder in folders]


def _bar(module_seed: int, total: int, done: int) -> Callable[[int], object]:
    from tqdm import tqdm

    label = f"module seed {module_seed + 1}" if module_seed else None
    bar = tqdm(total=total or None, initial=done, desc=label, unit="text", file=sys.stderr, smoothing=0.02)
    return bar.update


def _worker(args: argparse.Namespace, environment: StudyEnvironment, engine: Engine) -> Worker:
    sampling = _sampling(args)
    if args.engine == "local":
        from composer.evaluation.generation import generate_texts

        return lambda jobs, unscored: generate_texts(engine, jobs, unscored, sampling, args.slots)

    from composer.study.ray_worker import Cluster, ray_work

    cluster = Cluster(args.ray_address, args.ray_workers, args.ray_cpus, args.ray_gpus)
    return partial(ray_work, cluster, environment, sampling=sampling, slots=args.slots)


def _command(args: argparse.Namespace) -> str:
    """What to type to get the same report; the folders are the reader's own."""
    words = ["python", "-m", "composer", "study", "--seeds", str(args.seeds), "--tokens", str(args.tokens)]
    defaults = {"stage": None, "rerun": None, "most_prompts": None, "base": None, "arms": None}
    defaults |= {"targets": None, "targets_per_prompt": TARGETS_PER_PROMPT, "strengths": STRENGTHS}
    for name, default in defaults.items():
        if (value := getattr(args, name)) != default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    folders = ("prompts", "judges", "data", "modules", "module_seeds", "choices", "hub_judges", "lora_judges")
    own = [f"--{option.replace('_', '-')} ..." for option in folders if getattr(args, option)]
    return " ".join([shlex.join(words), *own])
