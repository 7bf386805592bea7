"""The engine from a shell: python -m composer and what to do.

generate | explain | fuse | check | methods | train | judges | evaluate | study | bench

Exit codes: 0 done, 1 `check` found that the adapter does not fit, 2 bad input or a fault (one line on stderr
says what to do), 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from composer.cli import bench as bench
from composer.cli import evaluate as study
from composer.cli import train as training
from composer.cli.options import (
    add_common,
    add_composition,
    add_sampling,
    parse_names,
    read_composition,
    read_sampling,
)
from composer.core.composition import Composition, Sampling
from composer.core.fault_messages import sentence
from composer.core.jsonable import to_jsonable
from composer.core.results import Fusion, GenerationResult, Step
from composer.core.shell import USAGE, Parser, give_up, open_closed, show_anything, tell

if TYPE_CHECKING:
    from composer.engine.engine import Engine

log = logging.getLogger(__name__)

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


def _listen(verbose: bool) -> None:
    """A fault reaches the user as its one sentence; the log around it is for those who ask."""
    if verbose:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s: %(message)s")
        return
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr, format="composer: %(message)s")
    # But for what takes half a minute, once.
    logging.getLogger("composer.model.converted").setLevel(logging.INFO)
    # Other libraries' deprecations would bury the one line that says what to do.
    warnings.simplefilter("ignore")


def _flushed(out: TextIO, code: int) -> int:
    """The exit code after the rest of the answer has gone out, or could not."""
    try:
        out.flush()
    except BrokenPipeError:
        give_up(out)
    except (OSError, ValueError) as fault:
        give_up(out)
        if code == 0:
            tell(f"composer: {sentence(fault, '')}")
            return USAGE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="composer", description="Compose LoRA adapters of a language model, layer by layer.")
    parser.set_defaults(verbose=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_explain(commands)
    _add_fuse(commands)
    _add_check(commands)
    _add_methods(commands)
    training.command(commands)
    study.command(commands)
    bench.command(commands)
    return parser


def _add_generate(commands) -> None:
    parser = commands.add_parser("generate", help="continue a prompt under a composition of adapters")
    add_common(parser)
    parser.add_argument("--prompt", required=True)
    add_composition(parser)
    add_sampling(parser)
    parser.set_defaults(run=_generate)


def _generate(args: argparse.Namespace, out: TextIO) -> int:
    composition, sampling = read_composition(args), read_sampling(args)
    engine = _engine(args)
    fusion = _fusion_for(engine, args.prompt, composition)
    steps: Iterable[Step] = engine.generate(args.prompt, composition, sampling, fusion=fusion)
    if not args.json:
        steps = _streamed(args.prompt, steps, out)
    trace = engine.trace(args.prompt, composition, sampling, steps, fusion)
    if args.json:
        _write(_trace_object(trace, engine), out)
    else:
        notes = "".join(f", {name} {value:.3f}" for name, value in engine.resolve(composition).notes.items())
        print(
            f"{len(trace.steps)} tokens, {trace.tokens_per_second:.1f} tokens/s, seed {sampling.seed}, "
            f"{composition.method}{notes}, {engine.base.id} ({engine.base.source})",
            file=sys.stderr,
        )
    return 0


def _fusion_for(engine: Engine, prompt: str, composition: Composition) -> Fusion | None:
    from composer.methods import METHODS

    method = METHODS.get(composition.method)
    return engine.fusion(prompt, composition=composition) if method and method.needs_kl else None


def _streamed(prompt: str, steps: Iterable[Step], out: TextIO) -> Iterable[Step]:
    out.write(prompt)
    for step in steps:
        out.write(step.piece)
        out.flush()
        yield step
    out.write("\n")


def _trace_object(trace: GenerationResult, engine: Engine) -> dict:
    fusion = trace.fusion
    return {
        "text": trace.text,
        "tokens": [step.token for step in trace.steps],
        "pieces": [step.piece for step in trace.steps],
        "layers": trace.layers,
        "adapters": trace.adapters,
        "contribution": trace.contribution,
        "fusion": None if fusion is None else {"kl": fusion.kl, "alpha": fusion.alpha},
        "tokens_per_second": trace.tokens_per_second,
        "base": trace.base,
        "base_source": engine.base.source,
        "method": trace.composition.method,
        # Made for the text, so still there: nothing is made again for its notes.
        "merge": dict(engine.resolve(trace.composition).notes),
        "weights": trace.composition.weights,
        "seed": trace.sampling.seed,
        "finish": trace.steps[-1].finish if trace.steps else None,
    }


def _add_explain(commands) -> None:
    parser = commands.add_parser("explain", help="why a composition does what it does, on one prompt")
    add_common(parser)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--text", help="the continuation to explain (one is generated)")
    add_composition(parser)
    # A page of tokens is enough to read, and greedy shows what the composition wants most.
    add_sampling(parser, Sampling(max_new_tokens=30, temperature=0))
    parser.set_defaults(run=_explain)


def _explain(args: argparse.Namespace, out: TextIO) -> int:
    composition, sampling = read_composition(args), read_sampling(args)
    engine = _engine(args)

    from composer.analysis.explain import explain
    from composer.analysis.text_report import as_text

    found = explain(engine, args.prompt, composition, sampling, args.text)
    if args.json:
        _write(found.to_json(), out)
    else:
        print(as_text(found), file=out)
    return 0


def _add_fuse(commands) -> None:
    parser = commands.add_parser("fuse", help="a prompt's KL fusion weights, layer by layer")
    add_common(parser)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--adapters", metavar="NAME,...", help="which adapters share the weight (all)")
    parser.add_argument("--no-norm", dest="norm", action="store_false", help="lens without the final norm")
    parser.add_argument(
        "--tokens", choices=("last", "all"), default="last", help="which of the prompt's (%(default)s)"
    )
    parser.set_defaults(run=_fuse)


def _fuse(args: argparse.Namespace, out: TextIO) -> int:
    engine = _engine(args)
    names = parse_names(args.adapters) or engine.names
    fusion = engine.fusion(args.prompt, names, args.norm, args.tokens)
    from composer.analysis.norm_correlation import alpha_norm_correlation

    correlation = alpha_norm_correlation(engine, fusion, names)
    if args.json:
        answer = {
            "kl": fusion.kl,
            "alpha": fusion.alpha,
            "adapters": names,
            "layers": engine.model.layers,
            "undecided": fusion.undecided,
            "norm_correlation": correlation,
            "base": engine.base.id,
            "base_source": engine.base.source,
        }
        _write(answer, out)
        return 0
    width = max(8, *(len(name) for name in names)) if names else 8
    print("layer  " + "  ".join(f"{name:>{width}}" for name in names), file=out)
    for layer, (row, undecided) in enumerate(zip(fusion.alpha, fusion.undecided, strict=True)):
        cells = "  ".join(f"{value:>{width}.3f}" for value in row)
        print(f"{layer:>5}  {cells}{'  undecided' if undecided else ''}", file=out)
    if correlation is not None:
        print(f"correlation with the adapters' own norms: {correlation:.2f}", file=out)
    return 0


def _add_check(commands) -> None:
    parser = commands.add_parser("check", help="does an adapter fit the base? reads no weights")
    add_common(parser)
    parser.add_argument("source", metavar="REPO_OR_DIR", help="owner/name on the Hub, or a folder")
    parser.add_argument("--revision", help="a commit of the repo (the newest)")
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace, out: TextIO) -> int:
    report = _engine(args).check(args.source, args.revision)
    if args.json:
        answer = {
            "ok": report.ok,
            "reasons": report.reasons,
            "ranks": report.ranks,
            "source": report.source,
            "revision": report.revision,
            "name": report.name,
            "bytes": report.bytes,
        }
        _write(answer, out)
    else:
        print(report, file=out)
    return 0 if report.ok else 1


def _add_methods(commands) -> None:
    parser = commands.add_parser(
        "methods", help="every method: formula, source, parameters (docs/methods.md)"
    )
    parser.set_defaults(run=_methods)


def _methods(args: argparse.Namespace, out: TextIO) -> int:
    from composer.methods.reference import methods_markdown

    out.write(methods_markdown())
    return 0


def _engine(args: argparse.Namespace) -> Engine:
    from composer.engine.engine import Engine

    engine = Engine.from_catalog(args.catalog, args.base)
    for report in engine.reports:
        if not report.ok:
            print(f"composer: left out {report}", file=sys.stderr)
    return engine


def _write(answer: Mapping, out: TextIO) -> None:
    json.dump(to_jsonable(answer), out, allow_nan=False)
    out.write("\n")
