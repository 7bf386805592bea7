"""composer generate: continues a prompt under a composition of adapters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from composer.cli.options import (
    add_common,
    add_composition,
    add_sampling,
    load_engine,
    read_composition,
    read_sampling,
    write_json,
)
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Fusion, GenerationResult, Step

if TYPE_CHECKING:
    from composer.adapters.recipe import Recipe
    from composer.engine.engine import Engine
    from composer.evaluation.best_of_n import Candidate


def command(commands) -> None:
    """Register `generate` with the shell's subcommands."""
    parser = commands.add_parser("generate", help="continue a prompt under a composition of adapters")
    add_common(parser)
    parser.add_argument("--prompt", help="the beginning of the text; required without a recipe")
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="a recipe that the page's Share made: prompt, weights, method, sampling and seed come from it",
    )
    add_composition(parser)
    add_sampling(parser)
    parser.add_argument(
        "--best-of",
        type=int,
        default=1,
        metavar="N",
        help="write N texts, up to 16, and print the one that the adapters find likeliest to be what was "
        "asked, and that reads well (%(default)s)",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, out: TextIO) -> int:
    composition, sampling = read_composition(args), read_sampling(args)
    prompt = args.prompt
    if args.recipe is not None:
        from composer.adapters.recipe import load_recipe

        recipe = _alone(load_recipe(args.recipe), composition, sampling)
        prompt, composition = recipe.prompt if prompt is None else prompt, recipe.composition
        sampling = recipe.sampling
    if prompt is None:
        raise ComposerError("Give the beginning of a text with --prompt, or a recipe with --recipe.")
    engine = load_engine(args)
    if args.recipe is not None:
        _prepare(engine, recipe)
    fusion = _fusion_for(engine, prompt, composition)
    candidates: list[Candidate] = []
    if args.best_of == 1:
        steps: Iterable[Step] = engine.generate(prompt, composition, sampling, fusion=fusion)
    else:
        from composer.evaluation.best_of_n import best_of_n

        candidates = best_of_n(engine, prompt, composition, sampling, args.best_of, fusion)
        steps, sampling = candidates[0].steps, replace(sampling, seed=candidates[0].seed)
    if not args.json:
        steps = _streamed(prompt, steps, out)
    result = engine.trace(prompt, composition, sampling, steps, fusion)
    if args.json:
        write_json(_result_as_dict(result, engine) | _candidates_as_dict(candidates), out)
    else:
        print(_summary(result, engine, candidates), file=sys.stderr)
    return 0


def _alone(recipe: Recipe, composition: Composition, sampling: Sampling) -> Recipe:
    """The recipe. Raises ComposerError where options of the command line say something else beside it."""
    if (composition, sampling) != (Composition(), Sampling()):
        raise ComposerError(
            "--recipe brings weights, method and sampling; leave these options out, or leave out the recipe."
        )
    return recipe


def _prepare(engine: Engine, recipe: Recipe) -> None:
    """Load the recipe's adapters from the Hub that the catalog does not have. Raises ComposerError."""
    from composer.engine.recipes import check_recipe

    for name, source in recipe.adapters.items():
        if name not in engine.names and source.id:
            report = engine.add_adapter(source.id, source.revision, name)
            if not report.ok:
                raise ComposerError(
                    f"The recipe's adapter {name} cannot be loaded. {' '.join(report.reasons)}"
                )
    for sentence in check_recipe(engine, recipe):
        print(f"composer: {sentence}", file=sys.stderr)


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


def _summary(result: GenerationResult, engine: Engine, candidates: Sequence[Candidate]) -> str:
    best = f", best of {len(candidates)} ({candidates[0].score:.2f} nats)" if candidates else ""
    notes = engine.resolve(result.composition).notes.items()
    return (
        f"{len(result.steps)} tokens, {result.tokens_per_second:.1f} tokens/s, seed {result.sampling.seed}"
        f"{best}, {result.composition.method}{''.join(f', {name} {value:.3f}' for name, value in notes)}, "
        f"{engine.base.id} ({engine.base.source})"
    )


def _candidates_as_dict(candidates: Sequence[Candidate]) -> dict:
    """Those of best-of-n, best first; nothing without it."""
    if not candidates:
        return {}
    return {
        "best_of": [
            {"seed": each.seed, "score": each.score, "continuation": each.continuation} for each in candidates
        ]
    }


def _result_as_dict(result: GenerationResult, engine: Engine) -> dict:
    fusion = result.fusion
    return {
        "text": result.text,
        "tokens": [step.token for step in result.steps],
        "pieces": [step.piece for step in result.steps],
        "layers": result.layers,
        "adapters": result.adapters,
        "contribution": result.contribution,
        "fusion": None if fusion is None else {"kl": fusion.kl, "alpha": fusion.alpha},
        "tokens_per_second": result.tokens_per_second,
        "base": result.base,
        "base_source": engine.base.source,
        "method": result.composition.method,
        # Made for the text, so still there: nothing is made again for its notes.
        "merge": dict(engine.resolve(result.composition).notes),
        "weights": result.composition.weights,
        "seed": result.sampling.seed,
        "finish": result.steps[-1].finish if result.steps else None,
    }
