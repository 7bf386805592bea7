"""The plan of a stage: an arm's settings on prompts that each have some of the targets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import product

from composer.core.composition import Sampling
from composer.evaluation.generation import GenerationJob
from composer.evaluation.prompts import prompt_hash
from composer.study.design.plan import (
    Cell,
    Missing,
    StudyContext,
    StudyPlan,
    in_order,
    missing_adapter,
    model_input_of,
    present_targets,
    short_names,
)
from composer.study.design.targets import Target
from composer.study.design.tuning import Setting

# Sampling seeds of a rerun start here, so that they are none of the study's.
FRESH = 100
MOST_SEEDS = FRESH

# (prompt, target) places of the table.
Places = Collection[tuple[str, str]]


def staged_plan(
    context: StudyContext,
    settings: Sequence[Setting],
    targets: Sequence[Target],
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    per_prompt: int | None = None,
    seeds: range = range(1),
    module_seed: int = 0,
    only: Places | None = None,
) -> StudyPlan:
    """Every cell of one module seed, and every text they need once.

    per_prompt: how many of the targets each prompt has (None: all). Texts of one prompt are alike, so two
    prompts with one target each tell more than one prompt with two. All arms have the same, and so have all
    module seeds. seeds: texts at each place, with these sampling seeds. only: places to keep (None: all).
    """
    cells: list[Cell] = []
    jobs: dict[str, GenerationJob] = {}
    targets, missing = present_targets(context, targets)
    places = [
        (prompt, target)
        for prompt, own in assigned(prompts, targets, per_prompt).items()
        for target in own
        if only is None or (prompt, target.name) in only
    ]
    lacking: dict[tuple[str, str], list[Target]] = {}
    for setting in settings:
        arm = setting.arm
        if reason := arm.unavailable_reason(context.chat is not None):
            lacking.setdefault((arm.name, reason), [])
            continue
        for (prompt, target), number in product(places, seeds):
            asked = arm.composition_for(target, setting.strength)
            if reason := missing_adapter(context, _names(asked)):
                lacking.setdefault((arm.name, reason), []).append(target)
                continue
            seed = sampling_seed(prompt, number)
            model_input = model_input_of(context, arm, target, asked, prompt)
            key = context.key(model_input, asked, sampling, seed, arm.best_of)
            cells.append(
                Cell(arm.name, target, setting.strength, prompt, seed, key, module_seed, setting.name)
            )
            jobs[key] = GenerationJob(key, prompt, model_input, seed, asked, arm.best_of)
    missing += [Missing(arm, short_names(gone, targets), why) for (arm, why), gone in lacking.items()]
    return StudyPlan(tuple(cells), tuple(in_order(jobs.values())), tuple(missing))


def assigned(
    prompts: Sequence[str], targets: Sequence[Target], per_prompt: int | None
) -> dict[str, list[Target]]:
    """Each prompt's targets, as nearly equally often as can be; neighbours in turn differ in every label."""
    turn = _in_turn(targets)
    count = min(len(turn), per_prompt or len(turn))
    return {
        prompt: [turn[(place * count + step) % len(turn)] for step in range(count)]
        for place, prompt in enumerate(sorted(prompts, key=prompt_hash))
    }


def sampling_seed(prompt: str, number: int) -> int:
    """A prompt's own, whatever the other prompts are, and the same for all arms: below 2**32."""
    return (number << 24) + int(prompt_hash(prompt)[:6], 16)


def _in_turn(targets: Sequence[Target]) -> list[Target]:
    """Diagonals of the table of two attributes' labels, one after another; other targets as they come."""
    columns = [
        list(dict.fromkeys(target.wanted[place][1] for target in targets if len(target.wanted) > place))
        for place in range(2)
    ]

    def diagonal(target: Target) -> tuple[int, int]:
        if len(target.wanted) != 2:
            return 0, 0
        row, column = (columns[place].index(target.wanted[place][1]) for place in range(2))
        return (row - column) % len(columns[0]), column

    return sorted(targets, key=diagonal)


def _names(asked: Mapping[str, object]) -> Sequence[str]:
    weights = asked.get("weights")
    return tuple(weights) if isinstance(weights, Mapping) else ()
