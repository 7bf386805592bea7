"""Work in one running batch: texts join as others finish, and what is finished is scored in between."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Fusion, Step
from composer.engine.adapter_pool import PoolExhausted
from composer.engine.engine import Engine
from composer.engine.session import check_slots
from composer.evaluation.scoring import perplexities
from composer.methods import METHODS
from composer.model.runtime.batch import BatchRow, Failed
from composer.study.design.plan import GenerationJob

log = logging.getLogger(__name__)

Fusions = dict[tuple[str, bool], Fusion]  # of prompts already read, by whether the norm was applied

# Twice as many as a page serves at once: nobody waits for a first word here.
SLOTS = 64
# Texts scored together: enough for full passes, few enough that a killed run scores little again.
SCORED = 64


@dataclass(frozen=True)
class GeneratedText:
    """A text, with what it was made from; or, with `fault`, why it could not be made."""

    key: str
    prompt: str
    seed: int
    asked: dict[str, object]
    continuation: str = ""
    fault: str | None = None


@dataclass(frozen=True)
class Score:
    """perplexity: of the text's continuation under the base; None for an empty one."""

    key: str
    perplexity: float | None


def work(
    engine: Engine,
    units: Sequence[GenerationJob],
    unscored: Sequence[GeneratedText],
    sampling: Sampling,
    slots: int = SLOTS,
) -> Iterator[GeneratedText | Score]:
    """Make the units' texts and score those that want it, and what a run before left unscored.

    Yields each as soon as it is there. A unit that cannot be made comes back as a Made with its fault.
    """
    waiting, wanted = list(unscored), {unit.key for unit in units if unit.scored}
    for made in texts(engine, units, sampling, slots):
        yield made
        if made.fault is None and made.key in wanted:
            waiting.append(made)
        if len(waiting) >= SCORED:
            yield from scores(engine, waiting)
            waiting = []
    for start in range(0, len(waiting), SCORED):
        yield from scores(engine, waiting[start : start + SCORED])


def texts(
    engine: Engine, units: Sequence[GenerationJob], sampling: Sampling, slots: int
) -> Iterator[GeneratedText]:
    """Each unit's text as it ends, from a batch that is kept full until the units run out.

    slots: how many voices decode together; most texts have one.
    """
    if not units:
        return
    longest = max(engine.base.count_tokens(told) for told in {unit.told for unit in units})
    room = min(longest, engine.base.prompt_limit) + sampling.max_new_tokens
    run = engine.start(slots, min(room, engine.base.context))
    queue, fusions = deque(units), {}
    running: dict[str, tuple[GenerationJob, BatchRow]] = {}
    free, following = slots, None
    while queue or running:
        rows: list[BatchRow] = []
        while queue:
            following = following or _ready(engine, queue[0], sampling, fusions, slots, bool(running))
            if following is None or (isinstance(following, BatchRow) and len(following.mixture) > free):
                break
            unit = queue.popleft()
            if isinstance(following, BatchRow):
                rows.append(following)
                running[unit.key] = unit, following
                free -= len(following.mixture)
            else:
                yield following
            following = None
        if not running:
            continue
        for outcome in run.add(rows) if rows else run.step():
            if isinstance(outcome, Failed) or outcome.finish is not None:
                unit, row = running.pop(outcome.row)
                free += len(row.mixture)
                yield _failed(unit, outcome.fault) if isinstance(outcome, Failed) else _made(unit, outcome)


def _ready(
    engine: Engine, unit: GenerationJob, sampling: Sampling, fusions: Fusions, slots: int, others: bool
) -> BatchRow | GeneratedText | None:
    """The unit's row, or the Made that says why it has none; None while it needs a place that others use."""
    try:
        row = _row(engine, unit, sampling, fusions)
        check_slots(row, slots)
    except PoolExhausted as fault:
        return None if others else _failed(unit, fault)
    except ComposerError as fault:
        return _failed(unit, fault)
    return row


def _row(engine: Engine, unit: GenerationJob, sampling: Sampling, fusions: Fusions) -> BatchRow:
    """The unit ready to join. A prompt's fusion over all adapters serves every unit that asks for it."""
    composition, fusion = Composition(**unit.asked), None
    if METHODS[composition.method].needs_kl:
        place = (unit.told, composition.norm)
        fusion = fusions[place] if place in fusions else engine.fusion(unit.told, norm=composition.norm)
        fusions[place] = fusion
    own = replace(sampling, seed=unit.seed)
    return engine.row(unit.key, unit.told, composition, own, fusion)


def scores(engine: Engine, made: Sequence[GeneratedText]) -> Iterator[Score]:
    """Perplexities, in passes over many texts at once."""
    try:
        values = perplexities(engine, [(each.prompt, each.continuation) for each in made])
    except ComposerError:
        # One text, read back, is longer than the base's context: it alone goes without.
        if len(made) == 1:
            values = [None]
        else:
            yield from scores(engine, made[: len(made) // 2])
            yield from scores(engine, made[len(made) // 2 :])
            return
    yield from (Score(each.key, value) for each, value in zip(made, values, strict=True))


def _made(unit: GenerationJob, last: Step) -> GeneratedText:
    return GeneratedText(unit.key, unit.prompt, unit.seed, dict(unit.asked), last.text)


def _failed(unit: GenerationJob, fault: Exception) -> GeneratedText:
    sentence = str(fault)
    if not isinstance(fault, ComposerError):
        log.error("a text could not be made", exc_info=fault)
        sentence = "This text could not be continued; run again. The log has the details."
    return GeneratedText(unit.key, unit.prompt, unit.seed, dict(unit.asked), fault=sentence)
