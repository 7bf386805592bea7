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
    from composer.study.pipeline import Report

STRENGTHS = "0.5,0.75,1,1.25,1.5"
STAGES = ("develop", "report")
TARGETS_PER_PROMPT = 2
CHOICES = "choices.json"


def command(commands) -> None:
    """Register `study` with the shell's subcommands."""
    parser = commands.add_parser("study", help="compare every way of composing: texts, judges, report")
    add_common(parser)
    judges_cli.add_judges(parser)
    judges_cli.add_lora_judges(parser)
    parser.add_argument(
        "--prompts", metavar="FILE,...", help="files with one prompt a line (the 35 prefixes of PPLM)"
    )
    parser.add_argument(
        "--arms", metavar="NAME,...", help="which ways of composing (all; main ones in a stage)"
    )
    parser.add_argument(
        "--targets", metavar="NAME,...", help="targets or kinds of them (all; pairs in a stage)"
    )
    parser.add_argument("--strengths", default=STRENGTHS, metavar="S,...", help="(%(default)s)")
    parser.add_argument("--seeds", type=int, help="texts per prompt (3), in a stage per place (1)")
    parser.add_argument("--tokens", type=int, default=60, help="new tokens per text (%(default)s)")
    parser.add_argument("--slots", type=int, default=64, help="texts made at a time (%(default)s)")
    parser.add_argument(
        "--modules", metavar="DIR", help="the study's own modules (assets/adapters beside the catalog)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/study"),
        help="texts and report; a run goes on from them (%(default)s)",
    )
    parser.add_argument("--report", action="store_true", help="make no more texts, tell what there is")
    parser.add_argument("--pack", action="store_true", help="compress the folder's records at the end")
    _add_survey(parser)
    _add_stages(parser)
    _add_ray(parser)
    parser.set_defaults(run=_run)


def _add_survey(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("survey", "without --stage: all arms at all strengths on all prompts")
    group.add_argument("--scored", type=int, default=1, help="texts scored for fluency (%(default)s)")
    group.add_argument(
        "--sweep-seeds",
        type=int,
        default=1,
        help="texts at strengths other than 1, and with three modules (%(default)s)",
    )
    group.add_argument(
        "--sweep-prompts", type=int, metavar="N", help="and there only the first N prompts (all)"
    )


def _add_stages(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("stages", "choose on development prompts, claim on report prompts")
    group.add_argument(
        "--stage", choices=STAGES, help="develop writes choices.json; report reads it and tests the claims"
    )
    group.add_argument("--choices", type=Path, metavar="FILE", help="the choices of a develop stage")
    group.add_argument(
        "--most-prompts", type=int, metavar="N", help="of each file's part the first N by hash (all)"
    )
    group.add_argument(
        "--targets-per-prompt", type=int, default=TARGETS_PER_PROMPT, metavar="N", help="(%(default)s)"
    )
    group.add_argument(
        "--module-seeds", metavar="DIR,...", help="folders, each with another training of all adapters"
    )
    group.add_argument("--join", metavar="DIR,...", help="one report of several folders' report stages")
    group.add_argument("--judge-again", action="store_true", help="have --out's texts read by these judges")
    group.add_argument(
        "--rerun", type=float, metavar="SHARE", help="make so much of --out's report stage again, like 0.1"
    )


def _add_ray(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="(%(default)s)")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="a cluster's (ray on this machine)")
    parser.add_argument("--ray-workers", type=int, default=1, help="engines at work in ray (%(default)s)")
    parser.add_argument("--ray-cpus", type=int, default=1, help="cores of each (%(default)s)")
    parser.add_argument("--ray-gpus", type=float, default=0, help="GPUs of each (%(default)s)")


def _run(args: argparse.Namespace, out: TextIO) -> int:
    counts = ("seeds", "scored", "sweep_seeds", "sweep_prompts", "slots", "ray_workers", "ray_cpus")
    for option in (*counts, "most_prompts", "targets_per_prompt"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise ComposerError(f"--{option.replace('_', '-')} must be at least 1.")
    asked = [args.stage, args.join, args.judge_again or None, args.rerun]
    if sum(value is not None for value in asked) > 1:
        raise ComposerError("Give only one of --stage, --join, --judge-again and --rerun.")
    if args.join is not None:
        return _join(args, out)
    if args.judge_again:
        return _judge_again(args, out)
    if args.rerun is not None:
        return _rerun(args, out)
    return _stage(args, out) if args.stage else _survey(args, out)


def _survey(args: argparse.Namespace, out: TextIO) -> int:
    from composer.evaluation.store import Store
    from composer.study.pipeline import StudyConfig, check_judges, prepare, report

    if args.module_seeds or args.choices:
        raise ComposerError("--module-seeds and --choices belong to a stage; add --stage.")
    config = StudyConfig(
        _prompts(args),
        parse_names(args.arms),
        parse_names(args.targets),
        _strengths(args),
        args.seeds or 3,
        _sampling(args),
        args.scored,
        args.sweep_seeds,
        args.sweep_prompts,
    )
    output_folder("--out", args.out)
    judges = _judges(args)
    [environment] = _environments(args)
    engine = environment.engine()
    study_plan = prepare(engine, config)
    check_judges(study_plan, judges)
    store = Store(args.out)
    if not args.report:
        bar = _bar(0, len(study_plan.jobs), len(store.finished(study_plan.jobs)))
        store.run_pending(study_plan.jobs, _worker(args, environment, engine), bar)
    found = report(engine, config, study_plan, store, judges, _command(args))
    if args.pack:
        store.pack()
    return _tell(args, found, out)


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
        args.seeds or 1,
        args.targets_per_prompt,
        _sampling(args),
        read_choices(args.choices) if args.choices else None,
    )
    config.settings()  # raises for unknown arms before the judges and the base are loaded
    output_folder("--out", args.out)
    judges = _judges(args)
    if not args.report:
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
    from composer.study.runs import load_run

    folders = parse_names(args.join) or ()
    if not folders:
        raise ComposerError("--join takes folders of report stages, separated by commas.")
    output_folder("--out", args.out)
    return _tell(args, joined([load_run(Path(folder)) for folder in folders]), out)


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
    from composer.study.pipeline import write

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


def _prompts(args: argparse.Namespace) -> tuple[str, ...]:
    return tuple(dict.fromkeys(prompt for own in _prompt_files(args) for prompt in own))


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
    seeds = args.seeds or (1 if args.stage else 3)
    words = ["python", "-m", "composer", "study", "--seeds", str(seeds), "--tokens", str(args.tokens)]
    defaults = {"sweep_seeds": 1, "sweep_prompts": None, "scored": 1, "stage": None, "rerun": None}
    defaults |= {"most_prompts": None, "targets_per_prompt": TARGETS_PER_PROMPT, "base": None}
    defaults |= {"arms": None, "targets": None, "strengths": STRENGTHS}
    for name, default in defaults.items():
        if (value := getattr(args, name)) != default:
            words += [f"--{name.replace('_', '-')}", str(value)]
    folders = ("prompts", "judges", "data", "modules", "module_seeds", "choices", "hub_judges", "lora_judges")
    own = [f"--{option.replace('_', '-')} ..." for option in folders if getattr(args, option)]
    return " ".join([shlex.join(words), *own])
