"""python -m benchmarks.soak: the full soak, which writes benchmarks/SOAK.md. See `make soak`."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.soak.check import check
from benchmarks.soak.plan import SoakPlan
from benchmarks.soak.report import as_markdown, passed
from benchmarks.soak.run import soak
from benchmarks.soak.solo import Solo
from benchmarks.soak.worlds import real_world
from composer.core.errors import ComposerError

REPORT = Path(__file__).parents[1] / "SOAK.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run and compare; 1 where something was wrong, 2 with a sentence where it could not run."""
    default = SoakPlan()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description="Many visitors and faults, every answer compared."
    )
    parser.add_argument("--minutes", type=float, default=default.seconds / 60, help="%(default)s")
    warm_up = default.warm_up / 60
    parser.add_argument("--warm-up", type=float, default=warm_up, help="minutes before (%(default)s)")
    parser.add_argument("--visitors", type=int, default=default.visitors, help="programs (%(default)s)")
    parser.add_argument("--browsers", type=int, default=default.browsers, help="%(default)s")
    parser.add_argument("--seed", type=int, default=default.seed, help="of all they do (%(default)s)")
    every = default.fault_every
    parser.add_argument("--fault-every", type=float, default=every, help="seconds (%(default)s)")
    parser.add_argument("--out", type=Path, default=REPORT, help="the report (benchmarks/SOAK.md)")
    given = parser.parse_args(argv)
    words = sys.argv[1:] if argv is None else list(argv)
    command = shlex.join(["python", "-m", "benchmarks.soak", *words])
    plan = SoakPlan(
        seconds=given.minutes * 60,
        warm_up=given.warm_up * 60,
        visitors=given.visitors,
        browsers=given.browsers,
        seed=given.seed,
        fault_every=given.fault_every,
    )
    try:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            world = real_world()
            made = soak(world, plan, Path(folder), {}, _tell)
            found = check(made.recorder, Solo(world, compile_step=True), made.happened, _tell)
            report = as_markdown(made, found, world, plan, command)
    except ComposerError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    given.out.write_text(report, "utf-8")
    print(report)
    return 0 if passed(made, found) else 1


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
