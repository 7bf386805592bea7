"""Does each adapter do its job alone? The base and every adapter at weight 1: texts, judged and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

from composer.core.composition import Sampling
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.evaluation.fingerprints import origin, version
from composer.evaluation.generation import GenerationJob, generate_texts
from composer.evaluation.judges.ngram_judge import Judge
from composer.evaluation.metrics import Interval, distinct, median, over_prompts
from composer.evaluation.records import digest
from composer.evaluation.store import Store
from composer.evaluation.texts import BASE, Task, Text

# A batch is as slow as its slowest row; the limit only ends a run that hangs.
SAMPLING = Sampling(max_new_tokens=60, temperature=1.0, top_p=0.95, top_k=50, time_limit=3600)


@dataclass(frozen=True)
class Row:
    """What was found of one subject."""

    subject: str
    texts: int
    # Label -> Interval, prompt and continuation judged together, as published scores of this kind are.
    shares: Mapping[str, Interval]
    # The same for the continuation by itself.
    alone: Mapping[str, Interval]
    # Median over texts, under the base.
    perplexity: float | None
    # Share of different word pairs.
    distinct2: float | None


def plan(subjects: Sequence[str], prompts: Sequence[str], seeds: int) -> list[Task]:
    """Every text to make. A seed is a prompt's own, so that no two prompts share their random draws, and
    the same for every subject, so that subjects differ by nothing but the adapter.
    """
    return [
        Task(subject, prompt, seed * 10_000 + place)
        for subject in subjects
        for seed in range(seeds)
        for place, prompt in enumerate(prompts)
    ]


def make_texts(
    engine: Engine,
    tasks: Sequence[Task],
    store: Store,
    *,
    sampling: Sampling = SAMPLING,
    batch: int = 35,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Text]:
    """The texts of `tasks`: from the store where it holds them, otherwise generated and stored.

    progress: receives how many texts became ready since its last call. Raises ComposerError for a base that
    is prompted through a chat template, where a text is no plain continuation of its prompt, and for a text
    that cannot be generated.
    """
    if engine.base.spec.prompting != "plain":
        raise ComposerError(
            "The table needs a base that continues plain text; choose one whose prompting is plain."
        )
    jobs = _jobs(engine, tasks, sampling)
    progress(len(store.finished(jobs)))
    store.run_pending(
        jobs, lambda todo, unscored: generate_texts(engine, todo, unscored, sampling, batch), progress
    )
    if faults := store.faults(jobs):
        raise ComposerError(next(iter(faults.values())))
    return [
        Text(text.key, task.subject, text.prompt, text.seed, text.continuation, store.perplexity(text.key))
        for task, text in zip(tasks, store.finished(jobs), strict=True)
    ]


def _jobs(engine: Engine, tasks: Sequence[Task], sampling: Sampling) -> list[GenerationJob]:
    versions = {BASE: "", **{spec.name: version(engine, spec) for spec in engine.snapshot.adapters}}
    settings = (engine.base.id, origin(engine.base), {**asdict(sampling), "time_limit": None})
    return [
        GenerationJob(
            digest(settings, versions[task.subject], *asdict(task).values()),
            task.prompt,
            task.prompt,
            task.seed,
            {"weights": {} if task.subject == BASE else {task.subject: 1.0}},
        )
        for task in tasks
    ]


def summarise(texts: Sequence[Text], judges: Sequence[Judge]) -> list[Row]:
    """A Row per subject, in the order of the texts."""
    return [_row(subject, tuple(own), judges) for subject, own in groupby(texts, lambda text: text.subject)]


def _row(subject: str, texts: Sequence[Text], judges: Sequence[Judge]) -> Row:
    return Row(
        subject,
        len(texts),
        dict(_shares(judges, texts, [text.prompt + text.continuation for text in texts])),
        dict(_shares(judges, texts, [text.continuation for text in texts])),
        median(text.perplexity for text in texts),
        distinct((text.continuation for text in texts), 2),
    )


def _shares(
    judges: Sequence[Judge], texts: Sequence[Text], read: Sequence[str]
) -> Iterator[tuple[str, Interval]]:
    for judge in judges:
        verdicts = judge(read)
        for label in judge.labels:
            given = zip(texts, verdicts, strict=True)
            if found := over_prompts((text.prompt, float(verdict == label)) for text, verdict in given):
                yield label, found
