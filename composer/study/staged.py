"""The study's stages on one base: texts on development or report prompts, for each module seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from composer.core.composition import Sampling
from composer.core.errors import ComposerError
from composer.core.jsonable import to_jsonable
from composer.core.machine import machine_line
from composer.engine.engine import Engine
from composer.evaluation.prompts import DEVELOPMENT, REPORT, part
from composer.evaluation.store import Store, Worker
from composer.study.design.arms import Arm
from composer.study.design.choices import Choices, check_choices
from composer.study.design.claims import CHOSEN
from composer.study.design.environment import StudyEnvironment
from composer.study.design.plan import Cell, StudyContext, StudyPlan
from composer.study.design.staged_plan import FRESH, MOST_SEEDS, Places, staged_plan
from composer.study.design.targets import all_targets, choose
from composer.study.design.tuning import (
    REFERENCES,
    Setting,
    develop_settings,
    report_settings,
    staged_arms,
    with_constants,
)
from composer.study.run_record import RunRecord, StoredSetting
from composer.study.statistics.alpha_profile import load_own, patterns

# Of so many prompts the mean of KL's alpha is drawn.
PATTERN_PROMPTS = 35

# (environment, its engine) -> what generates.
WorkerOf = Callable[[StudyEnvironment, Engine], Worker]
# (module seed, texts, of them finished) -> what receives how many more are finished.
ProgressOf = Callable[[int, int, int], Callable[[int], object]]


@dataclass(frozen=True)
class StageConfig:
    """The options of a stage."""

    # DEVELOPMENT or REPORT.
    stage: str
    prompts: tuple[str, ...]
    # Names; None: all, in REPORT all that have choices.
    arms: tuple[str, ...] | None
    # Names; None: all.
    targets: tuple[str, ...] | None
    # Tried on development prompts.
    strengths: tuple[float, ...]
    # Texts at each place, and targets of each prompt (None: all).
    seeds: int
    per_prompt: int | None
    sampling: Sampling
    # What was chosen on development prompts, for REPORT.
    choices: Choices | None = None

    def settings(self) -> list[Setting]:
        """What is generated for each target. Raises ComposerError for unknown arms and without choices."""
        if self.stage == DEVELOPMENT:
            return develop_settings(staged_arms(self.arms), self.strengths)
        if self.choices is None:
            raise ComposerError("The report needs choices; make them with: --stage develop")
        return report_settings(self._reported_arms(self.choices), self.choices.settings)

    def check(self, base: str) -> None:
        """Raise ComposerError for prompts of the other part, and for choices that do not suit them."""
        if self.seeds > MOST_SEEDS:
            raise ComposerError(f"--seeds must be at most {MOST_SEEDS} in a stage.")
        if not self.prompts:
            raise ComposerError(f"No prompt of the file is of the {self.stage} part; give more prompts.")
        if strange := next((text for text in self.prompts if part(text) != self.stage), None):
            raise ComposerError(f"The prompt {strange[:60]!r} is not of the {self.stage} part; leave it out.")
        if self.choices is not None:
            wanted = [arm.name for arm in self._reported_arms(self.choices) if arm.name not in REFERENCES]
            check_choices(self.choices, base, wanted, self.prompts)

    def _reported_arms(self, choices: Choices) -> tuple[Arm, ...]:
        return staged_arms(tuple(choices.arms) if self.arms is None else self.arms)


def run_stage(
    environments: Sequence[StudyEnvironment],
    config: StageConfig,
    store: Store,
    worker_of: WorkerOf,
    progress_of: ProgressOf,
    command: str,
) -> RunRecord:
    """Generates the texts of every module seed, one after the other, and returns the run's table.

    Texts that need no module are the same for all seeds and are made once.
    """

    def planned(engine: Engine, context: StudyContext, module_seed: int) -> StudyPlan:
        config.check(engine.base.id)
        targets = choose(all_targets(engine.base.spec.attributes), config.targets)
        return staged_plan(
            context,
            config.settings(),
            targets,
            config.prompts,
            config.sampling,
            per_prompt=config.per_prompt,
            seeds=range(config.seeds),
            module_seed=module_seed,
        )

    found = _carry_out(environments, planned, store, worker_of, progress_of, config.stage == REPORT)
    chosen = config.choices.arms if config.choices else {}
    settings = tuple(
        StoredSetting(
            each.arm.name,
            each.name,
            dict(each.arm.parameters),
            each.strength,
            each.name != CHOSEN or chosen[each.arm.name].fluent,
        )
        for each in config.settings()
    )
    return RunRecord(
        config.stage,
        **found.base,
        module_seeds=len(environments),
        seeds=config.seeds,
        per_prompt=config.per_prompt,
        sampling={**asdict(config.sampling), "time_limit": None},
        prompts=config.prompts,
        settings=settings,
        cells=found.cells,
        missing=tuple(dict.fromkeys(each for own in found.plans for each in own.missing)),
        patterns=found.patterns,
        notes=_notes(config, found, command),
        trainings=found.trainings,
    )


def run_again(
    environments: Sequence[StudyEnvironment],
    record: RunRecord,
    share: float,
    store: Store,
    worker_of: WorkerOf,
    progress_of: ProgressOf,
    command: str,
) -> RunRecord:
    """Generates a random part of a run's places anew, all arms at each, with sampling seeds it never had.

    The environments may come in any order: each is known by its modules. Raises ComposerError where they
    are not the run's.
    """
    if len(environments) != record.module_seeds:
        raise ComposerError(f"The run has {record.module_seeds} module seeds; give --module-seeds as many.")
    places = drawn_places(record, share)
    sampling = Sampling(**{**record.sampling, "time_limit": 3600})
    arms = {arm.name: arm for arm in staged_arms(tuple({each.arm for each in record.settings}))}
    settings = [
        Setting(with_constants(arms[each.arm], each.constants), each.name, each.strength)
        for each in record.settings
    ]
    targets = list(dict.fromkeys(cell.target for cell in record.cells))
    awaited = set(record.trainings)

    def planned(engine: Engine, context: StudyContext, module_seed: int) -> StudyPlan:
        if (engine.base.id, engine.base.spec.quantization) != (record.base, record.precision):
            raise ComposerError(f"The run is of {record.title}; choose that base with --base.")
        if record.trainings:
            if context.training not in awaited:
                raise ComposerError("The modules are not the run's; give --module-seeds the same folders.")
            awaited.remove(context.training)
            module_seed = record.trainings.index(context.training)
        return staged_plan(
            context,
            settings,
            targets,
            record.prompts,
            sampling,
            per_prompt=record.per_prompt,
            seeds=range(FRESH, FRESH + record.seeds),
            module_seed=module_seed,
            only=places,
        )

    found = _carry_out(environments, planned, store, worker_of, progress_of, False)
    note = f"{len(places)} places again with fresh sampling seeds, by `{command}` on {found.machine}."
    return replace(record, cells=found.cells, patterns=(), missing=(), notes=(note,))


def drawn_places(record: RunRecord, share: float) -> Places:
    """A random part of the run's (prompt, target) places, at least one; the same every time."""
    if not 0 < share <= 1:
        raise ComposerError("--rerun takes a share above 0 and up to 1, like 0.1.")
    every = sorted({(cell.prompt, cell.target.name) for cell in record.cells})
    count = max(1, round(share * len(every)))
    picks = np.random.default_rng(0).choice(len(every), size=count, replace=False)
    return {every[place] for place in picks}


@dataclass(frozen=True)
class _CarriedOut:
    """What came of every module seed; the base, the machine and the patterns are the first one's."""

    plans: tuple[StudyPlan, ...]
    trainings: tuple[str, ...]
    base: Mapping[str, str]
    machine: str
    patterns: tuple[Mapping[str, Any], ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(cell for plan in self.plans for cell in plan.cells)


def _carry_out(
    environments: Sequence[StudyEnvironment],
    planned: Callable[[Engine, StudyContext, int], StudyPlan],
    store: Store,
    worker_of: WorkerOf,
    progress_of: ProgressOf,
    with_patterns: bool,
) -> _CarriedOut:
    """Every module seed's plan, with its texts in the store. One engine is held at a time."""
    plans: list[StudyPlan] = []
    trainings: list[str] = []
    first: tuple[dict[str, str], str, tuple] | None = None
    for module_seed, environment in enumerate(environments):
        engine = environment.engine()
        context = StudyContext.of(engine)
        plan = planned(engine, context, module_seed)
        plans.append(plan)
        trainings.append(context.training)
        done = len(store.finished(plan.jobs))
        progress = progress_of(module_seed, len(plan.jobs), done)
        store.run_pending(plan.jobs, worker_of(environment, engine), progress)
        if first is None:
            base, spec = engine.base, engine.base.spec
            named = {"base": base.id, "label": spec.label, "precision": spec.quantization}
            first = (
                named,
                f"{base.device} ({machine_line()})",
                _patterns(engine, plan) if with_patterns else (),
            )
        del engine  # before the next one is loaded
    if first is None:
        raise ComposerError("A study needs modules; leave --module-seeds out to use the catalog's.")
    return _CarriedOut(tuple(plans), tuple(trainings), *first)


def _patterns(engine: Engine, plan: StudyPlan) -> tuple[Mapping[str, Any], ...]:
    prompts = list(dict.fromkeys(cell.prompt for cell in plan.cells))[:PATTERN_PROMPTS]
    found = patterns(engine, prompts, load_own()) if prompts else []
    return tuple(to_jsonable(asdict(each)) for each in found)


def _notes(config: StageConfig, found: _CarriedOut, command: str) -> tuple[str, ...]:
    sampling = config.sampling
    texts = len({job.key for plan in found.plans for job in plan.jobs})
    each = f"{config.per_prompt} targets" if config.per_prompt else "all targets"
    notes = [
        f"{len(config.prompts)} {config.stage} prompts with {each} each, {config.seeds} text(s) a place, "
        f"{len(found.plans)} module seed(s); {sampling.max_new_tokens} new tokens, temperature "
        f"{sampling.temperature:g}, top-p {sampling.top_p:g}, top-k {sampling.top_k}. {texts} different "
        f"texts fill {len(found.cells)} places of the table.",
        f"Made by `{command}` on {found.machine}.",
    ]
    if config.choices:
        notes.insert(1, f"Chosen on {len(config.choices.prompts)} development prompts. {config.choices.rule}")
    return tuple(notes)
