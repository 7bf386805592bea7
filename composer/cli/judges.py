"""python -m composer judges, and the options by which other subcommands choose their judges."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from composer.cli.options import CATALOG
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message

if TYPE_CHECKING:
    from composer.evaluation.judges.lora_judge import LoraJudge
    from composer.evaluation.judges.ngram_judge import Judge, NgramJudge
    from composer.evaluation.judges.panel import Panel
    from composer.evaluation.judges.transformer_judge import TransformerJudge
    from composer.evaluation.texts import Text
    from composer.training.data import Row

BUNDLED = Path("assets/judges")
# A transformer reads some hundred texts a minute on a CPU; so many tell its accuracy within 4 points.
SAMPLE = 500


def command(commands) -> None:
    """Register `judges` with the shell's subcommands."""
    parser = commands.add_parser("judges", help="train the judges on labelled text that no adapter saw")
    parser.add_argument("--data", type=Path, required=True, help="folder with the labelled text")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="folder to keep them in (%(default)s)")
    parser.add_argument("--only", metavar="NAME,...", help="some of them (all)")
    parser.add_argument(
        "--lora",
        metavar="BASE",
        help="train LoRA adapters of this base of the catalog as judges, instead of counting words; "
        "they are kept in --out/BASE",
    )
    parser.add_argument("--catalog", default=CATALOG, help="the catalog of bases (%(default)s)")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/judges"), help="checkpoints of --lora (%(default)s)"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout, everything else on stderr"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log what is loaded and from where")
    parser.set_defaults(run=_run)


def add_judges(parser: argparse.ArgumentParser) -> None:
    """--judges, --data and --hub-judges; `judges` and `hub_judges` read them."""
    parser.add_argument("--judges", type=Path, help="folder of stored judges (the bundled ones)")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with labelled text: judges are trained on it, not loaded; --hub-judges measured on it",
    )
    parser.add_argument(
        "--hub-judges",
        nargs="?",
        const="",
        metavar="NAME=ID,...",
        help="ask transformer classifiers too: sentiment=ID or FOLDER, ... (three well-known ones)",
    )


def add_lora_judges(parser: argparse.ArgumentParser) -> None:
    """--lora-judges, for parsers that have --catalog; `lora_judges` reads it."""
    parser.add_argument(
        "--lora-judges",
        type=Path,
        metavar="FOLDER",
        help="ask language models with a LoRA adapter too, such as assets/judges/gemma3-270m",
    )


def lora_judges(args: argparse.Namespace) -> tuple[LoraJudge, ...]:
    """The requested judges that are language models. Raises ComposerError."""
    if args.lora_judges is None:
        return ()

    from composer.adapters.catalog import load_catalog
    from composer.evaluation.judges.lora_judge import load_lora_judges

    return load_lora_judges(args.lora_judges, load_catalog(args.catalog))


def judges(args: argparse.Namespace) -> tuple[NgramJudge, ...]:
    """The stored judges, or new ones where there is --data to train them from. Raises ComposerError."""
    from composer.evaluation.judges.serialization import BUNDLED as STORED
    from composer.evaluation.judges.serialization import load_judges
    from composer.evaluation.judges.training import train_judges

    if args.data is None:
        return load_judges(args.judges or STORED)
    if args.judges is not None:
        raise ComposerError("Give either --judges, to load them, or --data, to train them.")
    data = _folder(args.data)
    print("training the judges ...", file=sys.stderr)
    return train_judges(data)


def hub_judges(args: argparse.Namespace) -> tuple[TransformerJudge, ...]:
    """The requested classifiers. One that the Hub does not give is named on stderr. Raises ComposerError."""
    if args.hub_judges is None:
        return ()

    from composer.adapters.hub import HubError
    from composer.evaluation.judges.transformer_judge import load_hub_judge, parse_classifiers

    specs = parse_classifiers(args.hub_judges)
    tests = _samples(args.data, {spec.attribute for spec in specs}) if args.data else {}
    found = []
    for spec in specs:
        try:
            found.append(load_hub_judge(spec, tests.get(spec.attribute)))
        except HubError as fault:
            print(f"composer: going on without {spec.name}: {fault}", file=sys.stderr)
    return tuple(found)


def panels(texts: Sequence[Text], ours: Sequence[NgramJudge], others: Sequence[Judge]) -> tuple[Panel, ...]:
    """A panel for each attribute that more than one judge decides."""
    from composer.evaluation.judges.panel import evaluate_panel

    benches = ([own, *(judge for judge in others if judge.attribute == own.attribute)] for own in ours)
    return tuple(evaluate_panel(texts, bench) for bench in benches if len(bench) > 1)


def _samples(data: Path, attributes: set[str]) -> Mapping[str, Mapping[str, list[Row]]]:
    """Some held-out rows of each file, by attribute; which ones depends on nothing but their texts."""
    from composer.evaluation.judges.training import PLANS, adapters_texts, held_out

    seen = adapters_texts(data)
    tests = {attribute: held_out(PLANS[attribute], data, seen)[1] for attribute in attributes}
    return {
        attribute: {file: sorted(rows, key=_shuffled)[:SAMPLE] for file, rows in files.items()}
        for attribute, files in tests.items()
    }


def _shuffled(row: Row) -> bytes:
    return hashlib.sha256(row.text.encode()).digest()


def _run(args: argparse.Namespace, out: TextIO) -> int:
    from composer.cli.options import output_folder, parse_names
    from composer.evaluation.judges.ngram_judge import accuracy
    from composer.evaluation.judges.training import PLANS

    names = parse_names(args.only) or tuple(PLANS)
    if strange := [name for name in names if name not in PLANS]:
        raise ComposerError(unknown_name_message("attribute to judge", strange[0], PLANS))
    data = _folder(args.data)
    output_folder("--out", args.out)
    trained = _train_lora(args, names, data) if args.lora else _train_ngrams(args, names, data)
    for judge, _, _ in trained:
        print(f"Judge of {judge}", file=sys.stderr if args.json else out)
    if args.json:
        answer = [
            {
                "attribute": judge.attribute,
                "labels": judge.labels,
                "accuracy": accuracy(judge.scores),
                "trained_on": rows,
                "held_out": [asdict(score) for score in judge.scores],
                "bytes": path.stat().st_size,
            }
            for judge, rows, path in trained
        ]
        print(json.dumps({"judges": answer}, allow_nan=False), file=out)
    return 0


# A judge, how many rows it was trained on, and its file of weights.
Trained = tuple["Judge", int, Path]


def _train_ngrams(args: argparse.Namespace, names: Sequence[str], data: Path) -> list[Trained]:
    from composer.evaluation.judges.serialization import save_judges
    from composer.evaluation.judges.training import PLANS, train_judges

    made = train_judges(data, [PLANS[name] for name in names])
    paths = save_judges(made, args.out)
    return [(judge, judge.trained_on, path) for judge, path in zip(made, paths, strict=True)]


def _train_lora(args: argparse.Namespace, names: Sequence[str], data: Path) -> list[Trained]:
    import torch

    from composer.adapters.catalog import load_catalog
    from composer.adapters.files import WEIGHTS
    from composer.evaluation.judges.lora_judge import reading_base
    from composer.evaluation.judges.lora_training import LORA_PLANS, train_lora_judge
    from composer.model.loading import load_base

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec = reading_base(load_catalog(args.catalog).base(args.lora), device)
    made: list[Trained] = []
    for name in names:
        folder, work = args.out / args.lora, args.work / args.lora
        judge = train_lora_judge(LORA_PLANS[name], args.lora, lambda: load_base(spec), data, folder, work)
        made.append((judge, judge.trained_on, folder / name / WEIGHTS))
    return made


def _folder(data: Path) -> Path:
    if not data.is_dir():
        raise ComposerError("--data is not a folder; give the folder that holds the labelled text.")
    return data
