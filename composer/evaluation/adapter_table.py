"""Does each adapter do its job alone? The base and every adapter at weight 1: texts, judged and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.evaluation.fingerprints import origin, version
from composer.evaluation.judges.ngram_judge import NgramJudge
from composer.evaluation.metrics import Interval, distinct, median, over_prompts
from composer.evaluation.records import BASE, Records, Task, Text, digest
from composer.evaluation.scoring import perplexities

# A batch is as slow as its slowest row; the limit only ends a run that hangs.
SAMPLING = Sampling(max_new_tokens=60, temperature=1.0, top_p=0.95, top_k=50, time_limit=3600)


@dataclass(frozen=True)
class Row:
    """What was found of one subject.

    shares: label -> Interval, prompt and continuation judged together, as published scores of this kind
    are. alone: the same for the continuation by itself. perplexity: median over texts, under the base.
    distinct2: share of different word pairs.
    """

    subject: str
    texts: int
    shares: Mapping[str, Interval]
    alone: Mapping[str, Interval]
    perplexity: float | None
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
    records: Records,
    *,
    sampling: Sampling = SAMPLING,
    batch: int = 35,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Text]:
    """The texts of `tasks`: taken from the records where they hold them, else generated and recorded.

    progress is told how many texts became ready. Raises ComposerError for a base that is prompted
    through a chat template, where a text is no plain continuation of its prompt.
    """
    if engine.base.spec.prompting != "plain":
        raise ComposerError(
            "The table needs a base that continues plain text; choose one whose prompting is plain."
        )
    versions = {BASE: "", **{spec.name: version(engine, spec) for spec in engine.snapshot.adapters}}
    settings = (engine.base.id, origin(engine.base), {**asdict(sampling), "time_limit": None})
    keys = {task: digest(settings, versions[task.subject], *asdict(task).values()) for task in tasks}
    missing = [task for task in tasks if records.get(keys[task]) is None]
    progress(len(tasks) - len(missing))
    for start in range(0, len(missing), batch):
        part = missing[start : start + batch]
        continuations = _generate(engine, part, sampling)
        prompts = [task.prompt for task in part]
        scores = perplexities(engine, list(zip(prompts, continuations, strict=True)))
        records.add(
            Text(keys[task], task.subject, task.prompt, task.seed, continuation, score)
            for task, continuation, score in zip(part, continuations, scores, strict=True)
        )
        progress(len(part))
    return [text for task in tasks if (text := records.get(keys[task]))]


def summarise(texts: Sequence[Text], judges: Sequence[NgramJudge]) -> list[Row]:
    """A Row per subject, in the order of the texts."""
    return [_row(subject, tuple(own), judges) for subject, own in groupby(texts, lambda text: text.subject)]


def _row(subject: str, texts: Sequence[Text], judges: Sequence[NgramJudge]) -> Row:
    return Row(
        subject,
        len(texts),
        dict(_shares(judges, texts, [text.prompt + text.continuation for text in texts])),
        dict(_shares(judges, texts, [text.continuation for text in texts])),
        median(text.perplexity for text in texts),
        distinct((text.continuation for text in texts), 2),
    )


def _shares(
    judges: Sequence[NgramJudge], texts: Sequence[Text], read: Sequence[str]
) -> Iterator[tuple[str, Interval]]:
    for judge in judges:
        verdicts = judge(read)
        for label in judge.labels:
            given = zip(texts, verdicts, strict=True)
            if found := over_prompts((text.prompt, float(verdict == label)) for text, verdict in given):
                yield label, found


def _generate(engine: Engine, tasks: Sequence[Task], sampling: Sampling) -> list[str]:
    rows = [(task.prompt, _composition(task.subject), replace(sampling, seed=task.seed)) for task in tasks]
    continuations = [""] * len(tasks)
    for step in engine.generate_rows(rows):
        continuations[step.row] = step.text
    return continuations


def _composition(subject: str) -> Composition:
    return Composition(weights={} if subject == BASE else {subject: 1.0})
