"""The choices made on development prompts, as a file that the report reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from composer.core.errors import ComposerError
from composer.evaluation.prompts import REPORT, part_of_hash, prompt_hash

FORMAT = 1
# A strength counts as fluent up to this many times the modules' own median perplexity at strength 1.
FLUENT = 1.5
RULE = (
    "Of an arm's constants and strengths: the highest share of texts with both attributes, a mean over the "
    f"judges, among those whose median perplexity is at most {FLUENT:g} times the modules' own at strength "
    "1. Of equals the weakest; where none is that fluent, the one of the lowest perplexity."
)


@dataclass(frozen=True)
class Trial:
    """An arm with some constants at some strength, on development prompts."""

    arm: str
    constants: Mapping[str, object]
    strength: float
    texts: int
    # Share of texts with both attributes, a mean over the judges.
    control: float
    # Median; None where nothing was scored.
    perplexity: float | None


@dataclass(frozen=True)
class Choice:
    """What was chosen for an arm."""

    constants: Mapping[str, object]
    strength: float
    control: float
    perplexity: float | None
    # Whether it keeps the bound; where it does not, nothing tried did.
    fluent: bool


@dataclass(frozen=True)
class Choices:
    """The whole file."""

    # The base's Hub id.
    base: str
    # The most perplexity that is fluent.
    bound: float | None
    # Hashes of the development prompts.
    prompts: tuple[str, ...]
    judges: tuple[str, ...]
    arms: Mapping[str, Choice]
    rule: str = RULE
    format: int = FORMAT

    @property
    def settings(self) -> dict[str, tuple[Mapping[str, object], float]]:
        """Arm -> its constants and strength."""
        return {name: (choice.constants, choice.strength) for name, choice in self.arms.items()}


def choose(trials: Sequence[Trial], bound: float | None) -> dict[str, Choice]:
    """A choice per arm by RULE. Trials of one arm come with weaker constants first. bound: None: any."""
    arms: dict[str, list[Trial]] = {}
    for trial in trials:
        arms.setdefault(trial.arm, []).append(trial)
    return {name: _best(own, bound) for name, own in arms.items()}


def write_choices(choices: Choices, path: Path) -> None:
    """Raises ComposerError where the file cannot be written."""
    try:
        path.write_text(json.dumps(asdict(choices), indent=1, allow_nan=False) + "\n", "utf-8")
    except OSError as fault:
        raise ComposerError("The choices cannot be written; choose another folder with --out.") from fault


def read_choices(path: Path) -> Choices:
    """Raises ComposerError for a file that is no choices, and for choices made from a report prompt."""
    try:
        stored = json.loads(path.read_text("utf-8"))
        arms = {str(name): _choice(each) for name, each in stored["arms"].items()}
        prompts = tuple(map(str, stored["prompts"]))
        parts = [part_of_hash(each) for each in prompts]
        if stored["format"] != FORMAT or not arms or not prompts:
            raise ValueError("another format")
        bound = None if stored["bound"] is None else float(stored["bound"])
        judges = tuple(map(str, stored["judges"]))
        found = Choices(str(stored["base"]), bound, prompts, judges, arms, str(stored["rule"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as fault:
        raise ComposerError(
            "The choices cannot be read; make them with: python -m composer study --stage develop"
        ) from fault
    if REPORT in parts:
        raise ComposerError(
            "These choices were made on a prompt of the report part, so they prove nothing there; make them "
            "again with: python -m composer study --stage develop"
        )
    return found


def check_choices(choices: Choices, base: str, arms: Iterable[str], prompts: Iterable[str]) -> None:
    """Raise ComposerError for choices of another base, without one of these arms or made on these prompts."""
    if choices.base != base:
        raise ComposerError(
            f"These choices were made on {choices.base[:80]}; give --choices those of {base}."
        )
    if missing := next((name for name in arms if name not in choices.arms), None):
        raise ComposerError(f"The choices have nothing for {missing}; add it with: --stage develop --arms")
    seen = set(choices.prompts)
    if used := next((text for text in prompts if prompt_hash(text) in seen), None):
        raise ComposerError(f"The choices were made on the report prompt {used[:60]!r}; leave it out.")


def _best(trials: Sequence[Trial], bound: float | None) -> Choice:
    fluent = [
        trial
        for trial in trials
        if bound is None or (trial.perplexity is not None and trial.perplexity <= bound)
    ]
    if fluent:
        # max and min keep the first of equals, and weaker constants come first.
        best = max(sorted(fluent, key=lambda trial: trial.strength), key=lambda trial: trial.control)
    else:
        best = min(trials, key=lambda trial: (_spread(trial), trial.strength))
    return Choice(best.constants, best.strength, best.control, best.perplexity, bool(fluent))


def _spread(trial: Trial) -> float:
    return float("inf") if trial.perplexity is None else trial.perplexity


def _choice(stored: Mapping) -> Choice:
    constants = {str(name): value for name, value in stored["constants"].items()}
    perplexity = None if stored["perplexity"] is None else float(stored["perplexity"])
    return Choice(
        constants, float(stored["strength"]), float(stored["control"]), perplexity, bool(stored["fluent"])
    )
