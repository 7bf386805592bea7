"""Generates and scores many texts in one running batch. The adapter table and the study both use it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.results import Fusion, Step
from composer.engine.adapter_pool import PoolExhausted
from composer.engine.engine import Engine
from composer.engine.session import check_slots
from composer.evaluation.best_of_n import choice_scores, nth_seed
from composer.evaluation.scoring import perplexities
from composer.methods import METHODS
from composer.model.runtime.batch import BatchRow, Failed

log = logging.getLogger(__name__)

Fusions = dict[tuple[str, bool], Fusion]  # (model input, composition.norm) -> fusion over all adapters

# Twice as many as a page serves at once, since nobody waits for a first token here.
SLOTS = 64
# Texts scored together: enough for full passes, few enough that a killed run loses little.
SCORED_TOGETHER = 64


@dataclass(frozen=True)
class GenerationJob:
    """One text to generate."""

    key: str  # changes with anything that the text depends on
    prompt: str  # the beginning of the text
    model_input: str  # what the base reads; it ends with the prompt, and only the prompt is part of the text
    seed: int
    asked: Mapping[str, object]  # fields of Composition as plain values; a missing one has its default
    best_of: int = 1  # so many texts are written, of which best_of_n keeps one


@dataclass(frozen=True)
class GeneratedText:
    """A finished text, or the reason why there is none. The field names are those of stored records."""

    key: str
    prompt: str
    seed: int
    asked: dict[str, object]
    continuation: str = ""
    fault: str | None = None  # a sentence; None for a text that is there


@dataclass(frozen=True)
class Score:
    """The perplexity of a text's continuation under the base; None for an empty one."""

    key: str
    perplexity: float | None


def generate_texts(
    engine: Engine,
    jobs: Sequence[GenerationJob],
    unscored: Sequence[GeneratedText],
    sampling: Sampling,
    slots: int = SLOTS,
) -> Iterator[GeneratedText | Score]:
    """Generates the jobs' texts, and scores them and the finished texts in `unscored`.

    Yields each result as soon as it is there. A job that fails yields a GeneratedText with its fault.
    """
    waiting = list(unscored)
    for text in best_texts(engine, jobs, sampling, slots):
        yield text
        if text.fault is None:
            waiting.append(text)
        if len(waiting) >= SCORED_TOGETHER:
            yield from score_texts(engine, waiting)
            waiting = []
    for start in range(0, len(waiting), SCORED_TOGETHER):
        yield from score_texts(engine, waiting[start : start + SCORED_TOGETHER])


def best_texts(
    engine: Engine, jobs: Sequence[GenerationJob], sampling: Sampling, slots: int
) -> Iterator[GeneratedText]:
    """As `continue_texts`, with one text for each job, also where it asks for the best of several."""
    drafts = {job.key: _drafts(job) for job in jobs}
    owners = {draft.key: job for job in jobs for draft in drafts[job.key]}
    written: dict[str, GeneratedText] = {}
    for text in continue_texts(engine, [draft for own in drafts.values() for draft in own], sampling, slots):
        job, written[text.key] = owners[text.key], text
        keys = [draft.key for draft in drafts[job.key]]
        if all(key in written for key in keys):
            yield _best(engine, job, [written.pop(key) for key in keys])


def _drafts(job: GenerationJob) -> list[GenerationJob]:
    """A job for each of the texts; of one text itself."""
    if job.best_of == 1:
        return [job]
    return [
        replace(job, key=f"{job.key}/{number}", seed=nth_seed(job.seed, number), best_of=1)
        for number in range(job.best_of)
    ]


def _best(engine: Engine, job: GenerationJob, texts: Sequence[GeneratedText]) -> GeneratedText:
    """The job's text: of those that are there the best, or a fault where there is none."""
    there = [text for text in texts if text.fault is None] or list(texts[:1])
    best = 0
    if len(there) > 1:
        continuations = [text.continuation for text in there]
        try:
            found = choice_scores(engine, Composition(**job.asked), job.prompt, continuations)
        except ComposerError as fault:
            return _failed(job, fault)
        best = int(found.argmax())
    return replace(there[best], key=job.key, seed=job.seed)


def continue_texts(
    engine: Engine, jobs: Sequence[GenerationJob], sampling: Sampling, slots: int
) -> Iterator[GeneratedText]:
    """Each job's text as it ends, from a batch that is kept full until the jobs run out.

    slots: branches decoded together; most texts take one.
    """
    if not jobs:
        return
    longest = max(engine.base.count_tokens(read) for read in {job.model_input for job in jobs})
    length = min(longest, engine.base.prompt_limit) + sampling.max_new_tokens
    session = engine.start(slots, min(length, engine.base.context))
    queue, fusions = deque(jobs), {}
    running: dict[str, tuple[GenerationJob, BatchRow]] = {}
    free, following = slots, None
    while queue or running:
        rows: list[BatchRow] = []
        while queue:
            following = following or _row_or_fault(
                engine, queue[0], sampling, fusions, slots, others=bool(running)
            )
            if following is None or (isinstance(following, BatchRow) and len(following.mixture) > free):
                break
            job = queue.popleft()
            if isinstance(following, BatchRow):
                rows.append(following)
                running[job.key] = job, following
                free -= len(following.mixture)
            else:
                yield following
            following = None
        if not running:
            continue
        for outcome in session.add(rows) if rows else session.step():
            if isinstance(outcome, Failed) or outcome.finish is not None:
                job, row = running.pop(outcome.row)
                free += len(row.mixture)
                yield (
                    _failed(job, outcome.fault) if isinstance(outcome, Failed) else _finished(job, outcome)
                )


def _row_or_fault(
    engine: Engine, job: GenerationJob, sampling: Sampling, fusions: Fusions, slots: int, *, others: bool
) -> BatchRow | GeneratedText | None:
    """The job's row, or its fault; None while running rows (`others`) hold a slot that it needs."""
    try:
        row = _row(engine, job, sampling, fusions)
        check_slots(row, slots)
    except PoolExhausted as fault:
        return None if others else _failed(job, fault)
    except ComposerError as fault:
        return _failed(job, fault)
    return row


def _row(engine: Engine, job: GenerationJob, sampling: Sampling, fusions: Fusions) -> BatchRow:
    """The job's row of the batch. A prompt is fused once, for all jobs that ask for it."""
    composition, fusion = Composition(**job.asked), None
    if METHODS[composition.method].needs_kl:
        known = (job.model_input, composition.norm)
        fusion = fusions[known] if known in fusions else engine.fusion(known[0], norm=composition.norm)
        fusions[known] = fusion
    return engine.row(job.key, job.model_input, composition, replace(sampling, seed=job.seed), fusion)


def score_texts(engine: Engine, texts: Sequence[GeneratedText]) -> Iterator[Score]:
    """Perplexities, in passes over many texts at once."""
    try:
        values = perplexities(engine, [(text.prompt, text.continuation) for text in texts])
    except ComposerError:
        # One text, tokenized again, is longer than the base's context. It alone has no score.
        if len(texts) == 1:
            values = [None]
        else:
            yield from score_texts(engine, texts[: len(texts) // 2])
            yield from score_texts(engine, texts[len(texts) // 2 :])
            return
    yield from (Score(text.key, value) for text, value in zip(texts, values, strict=True))


def _finished(job: GenerationJob, last: Step) -> GeneratedText:
    return GeneratedText(job.key, job.prompt, job.seed, dict(job.asked), last.text)


def _failed(job: GenerationJob, fault: Exception) -> GeneratedText:
    sentence = str(fault)
    if not isinstance(fault, ComposerError):
        log.error("a text could not be generated", exc_info=fault)
        sentence = "This text could not be continued; run again. The log has the details."
    return GeneratedText(job.key, job.prompt, job.seed, dict(job.asked), fault=sentence)
