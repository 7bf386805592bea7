"""Every answer beside its solo run: texts, tokens, adapters, contributions, and the tables of sweeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.soak.faults import explained
from benchmarks.soak.records import SENTENCE, WHOLE, Answer, Recorder, Sweep, Wrong
from benchmarks.soak.solo import Replay, Solo
from composer.core.composition import Composition
from composer.evaluation.dose.sweep import Axis, Dose, DosePlan
from composer.evaluation.scoring import perplexities

# The page cuts a sweep's texts to so many tokens.
LONGEST_OF_DOSE = 40
# Fewer characters in common are chance.
ALIKE = 24


@dataclass
class Checked:
    """What the comparison found."""

    # By how they ended.
    answers: Counter[str] = field(default_factory=Counter)
    sweeps: int = 0
    tokens: int = 0
    # Answers in which rounding decided a draw: the same up to there, and the same text from there on.
    ties: int = 0
    wrong: list[Wrong] = field(default_factory=list)
    sentences: Counter[str] = field(default_factory=Counter)


def check(
    recorder: Recorder,
    solo: Solo,
    happened: Callable[[str], bool],
    tell: Callable[[str], None] = lambda words: None,
) -> Checked:
    """Compare all that was recorded. happened: whether a fault was injected. tell: is told how far it is."""
    found = Checked()
    # A base at a time: only one is in memory.
    answers = sorted(recorder.answers, key=lambda each: each.asked.base)
    for place, answer in enumerate(answers):
        if place % 100 == 0:
            tell(f"{place} of {len(answers)} answers compared")
        found.answers[answer.ended] += 1
        for what, strange in _answer(answer, solo, found, happened):
            leak = strange or _of_another(answer, answers)
            found.wrong.append(Wrong(answer.visitor, answer.action, what, leak))
    for sweep in recorder.sweeps:
        found.sweeps += 1
        for what in _sweep(sweep, solo, found, happened):
            found.wrong.append(Wrong(sweep.visitor, "dose", what))
    found.wrong += recorder.wrong
    return found


def _answer(
    answer: Answer, solo: Solo, found: Checked, happened: Callable[[str], bool]
) -> list[tuple[str, bool]]:
    """What is wrong with an answer, and whether it is somebody else's in any case."""
    if answer.ended == SENTENCE:
        found.sentences[answer.sentence] += 1
        if not explained(answer.sentence, happened):
            return [(f"nothing explains the sentence: {answer.sentence}", False)]
    if not answer.asked.prompt:
        return []
    whole = answer.ended == WHOLE
    if not whole and not answer.text:
        return []
    replay, names = solo.replay(answer.asked, answer.text, whole)
    found.tokens += len(replay.steps)
    if not replay.agrees:
        alone = replay.steps[-1].text if replay.steps else ""
        parted = f"it is {_short(answer.text, alone)} and alone {_short(alone, answer.text)}"
        return [(f"{parted}, of {answer.asked}", False)]
    found.ties += replay.ties > 0
    return _numbers(answer, replay, names) if whole else []


def _numbers(answer: Answer, replay: Replay, names: Sequence[str]) -> list[tuple[str, bool]]:
    wrong: list[tuple[str, bool]] = []
    if answer.adapters is not None and answer.adapters != tuple(names):
        wrong.append((f"it has the adapters {answer.adapters} and alone {tuple(names)}", True))
    if replay.ties or answer.tokens is None or answer.contribution is None:
        return wrong
    if answer.tokens != tuple(step.token for step in replay.steps):
        wrong.append(("its tokens are others than alone", False))
    elif not wrong:
        alone = np.stack([step.contribution for step in replay.steps])
        if alone.shape != answer.contribution.shape or not np.allclose(
            answer.contribution, alone, rtol=1e-2, atol=1e-3
        ):
            wrong.append(("its adapters' weights had another effect than alone", True))
    return wrong


def _sweep(sweep: Sweep, solo: Solo, found: Checked, happened: Callable[[str], bool]) -> list[str]:
    """What is wrong with the table of a sweep. A point whose text was ended by a fault has none."""
    if sweep.sentence:
        found.sentences[sweep.sentence] += 1
        if not explained(sweep.sentence, happened):
            return [f"nothing explains the sentence: {sweep.sentence}"]
    asked = sweep.asked
    axes = tuple(Axis.between(name, *span) for name, span in sweep.span.items())
    plan = DosePlan(Composition(**asked.composition), axes, (asked.prompt,), (int(asked.sampling["seed"]),))
    dose, most = Dose(plan, {}), min(asked.sampling["max_new_tokens"], LONGEST_OF_DOSE)
    for place, task in enumerate(plan.tasks):
        composition = plan.composition_at(task.point).as_dict()
        own = replace(asked, composition=composition, sampling={**asked.sampling, "max_new_tokens": most})
        text = solo.text(own)
        dose.add(place, text, perplexities(solo.engine(asked.base), [(task.prompt, text)])[0])
    head, table = dose.table()
    wrong = []
    for row, values in zip(sweep.rows, table, strict=False):
        alone = dict(zip(head, values, strict=True))
        if row.get("texts") != alone["texts"]:
            if not sweep.sentence:
                wrong.append("a text of the sweep is missing")
            continue
        for name in ("perplexity", "repetition"):
            if not _near(row[name], alone[name]):
                wrong.append(f"{name} is {row[name]} and alone {alone[name]}")
    return wrong


def _near(one: object, other: object) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.isclose(float(one), float(other), rtol=5e-3, atol=1e-4))


def _of_another(answer: Answer, answers: Sequence[Answer]) -> bool:
    """Whether the text is that of another visitor who was there at the time."""
    return any(
        each.visitor != answer.visitor
        and each.at < answer.done
        and answer.at < each.done
        and _common(each.text, answer.text) >= min(ALIKE, max(len(answer.text), 1))
        for each in answers
    )


def _common(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _short(text: str, beside: str) -> str:
    """The text around where it parts from another one."""
    place = max(_common(text, beside) - 20, 0)
    return repr(text[place : place + 60])
