"""`python -m composer COMMAND`. Each subcommand is a module of this package.

Exit codes: 0 done, 1 `check` found that the adapter does not fit, 2 bad input or a fault (one line on stderr
says what to do), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from composer.cli import (
    bases,
    check,
    dose,
    evaluate,
    explain,
    export,
    fetch,
    fuse,
    generate,
    judges,
    study,
    train,
)
from composer.cli.experiments import domains, quantization
from composer.cli.upkeep import bench, methods, record
from composer.core.fault_messages import sentence
from composer.core.shell import USAGE, Parser, flush, give_up, open_closed, show_anything, tell

log = logging.getLogger(__name__)

SUBCOMMANDS = (
    generate,
    explain,
    fuse,
    check,
    bases,
    fetch,
    dose,
    methods,
    export,
    record,
    train,
    judges,
    study,
    evaluate,
    domains,
    quantization,
    bench,
)

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    if not open_closed():
        tell("composer: stdout is closed, and the answer goes there: send it to a file, or to /dev/null.")
        return USAGE
    out = sys.stdout
    # A text may hold any character; a terminal that cannot show one must not end the run.
    show_anything(out)
    verbose = False
    try:
        args = _parser().parse_args(argv)
        verbose = args.verbose
        _listen(verbose)
        # Libraries print now and then; only what a subcommand writes to `out` is its answer.
        with contextlib.redirect_stdout(sys.stderr):
            code = args.run(args, out)
        out.flush()
        return code
    except SystemExit as done:
        return _flushed(out, int(done.code or 0))
    except KeyboardInterrupt:
        return _flushed(out, INTERRUPTED)
    except BrokenPipeError:
        # The reader (`head`, say) has had enough.
        give_up(out)
        return 0
    except Exception as fault:
        if verbose:
            log.error("what the fault came from", exc_info=fault)
        tell(f"composer: {sentence(fault, 'Run it with --verbose to see where.', paths=True)}")
        return _flushed(out, USAGE)
    finally:
        # Python would exit with 120 for a line of stderr that could not be written.
        flush(sys.stderr)


def _listen(verbose: bool) -> None:
    """Configures logging: errors reach the user as one sentence, the log only with --verbose."""
    if verbose:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
        return
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr, format="composer: %(message)s")
    # But for what takes half a minute, once.
    logging.getLogger("composer.model.checkpoints.converted").setLevel(logging.INFO)
    # And for a base that needs more memory than is free.
    logging.getLogger("composer.model.loading").setLevel(logging.WARNING)
    # Other libraries' deprecations would bury the one line that says what to do.
    warnings.simplefilter("ignore")


def _flushed(out: TextIO, code: int) -> int:
    """The exit code after the rest of the answer has gone out, or could not."""
    fault = flush(out)
    if fault is None or isinstance(fault, BrokenPipeError) or code != 0:
        return code
    tell(f"composer: {sentence(fault, '')}")
    return USAGE


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="composer", description="Compose LoRA adapters of a language model, layer by layer.")
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for subcommand in SUBCOMMANDS:
        subcommand.command(commands)
    return parser
