"""Six short lessons: how the page stands at their start, what to try, and the check that the page makes.

A check reads what the real runs brought; a lesson never fakes one. No widgets here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from composer.core.composition import Composition, Sampling
from composer.methods import METHODS
from composer.ui.views.generation import Progress

# What a meter has to reach.
PASS = 0.8
# A text is broken when the base finds it so many times as unlikely as the lesson's first one.
BROKEN = 2.0
SHORT = Sampling(max_new_tokens=50, temperature=0.8)


@dataclass(frozen=True)
class Attempt:
    """One text that was written during a lesson, and what was measured on it."""

    composition: Composition
    prompt: str
    seed: int
    pieces: tuple[str, ...]
    # What the judges give each attribute, prompt and text together.
    shares: Mapping[str, float]
    # Under the base; None where the text was not read once more.
    perplexity: float | None
    # Fusion weights of the adapters in use, [L] each.
    alpha: Mapping[str, np.ndarray]
    # Contribution of each adapter in use, mean over the text, [L].
    contribution: Mapping[str, np.ndarray]

    @property
    def used(self) -> dict[str, float]:
        """The weights that are not 0."""
        return {name: weight for name, weight in self.composition.weights.items() if weight}


def attempt_of(progress: Progress, shares: Mapping[str, float]) -> Attempt:
    """A finished generation as a lesson reads it."""
    request, read = progress.request, progress.read
    mean = np.stack([step.contribution for step in progress.steps]).mean(axis=0)  # [L, N]
    lanes = [each["name"] for each in progress.adapters]
    used = [name for name, weight in request.composition.weights.items() if weight and name in lanes]
    return Attempt(
        request.composition,
        request.prompt,
        request.sampling.seed,
        tuple(step.piece for step in progress.steps),
        shares,
        None if read is None else float(np.exp(-np.mean(read.attribution.base))),
        {} if progress.fusion is None else progress.shared(progress.fusion),
        {name: mean[:, lanes.index(name)] for name in used},
    )


@dataclass(frozen=True)
class Assessment:
    """Whether the runs so far pass, and one sentence about it with this run's numbers."""

    passed: bool
    sentence: str


# From the runs of a lesson, the newest last, and the adapters' labels.
Check = Callable[[Sequence[Attempt], Mapping[str, str]], Assessment]


@dataclass(frozen=True)
class Lesson:
    """A lesson, as the page shows it and starts it."""

    name: str
    title: str
    # What one learns, in the list of lessons.
    teaser: str
    # What to see, then what to try.
    words: str
    task: str
    prompt: str
    composition: Composition
    seed: int
    # Which formula is shown: sum, merge, share, kl or contrast.
    formula: str
    check: Check = field(repr=False)
    # Adapters that it needs beside those that it sets.
    also: tuple[str, ...] = ()

    @property
    def adapters(self) -> set[str]:
        return {*self.composition.weights, *self.also}


def loudest(run: Attempt, labels: Mapping[str, str]) -> str:
    """Where each adapter in use was loudest: a sentence with this run's numbers; empty for the base alone."""
    told = [
        f"{labels.get(name, name)} added {own.max():.1%} of the base's own output in layer {own.argmax() + 1}"
        for name, own in run.contribution.items()
        if own.any()
    ]
    return f"In this run {' and '.join(told)}, where it was loudest." if told else ""


def _percent(run: Attempt, name: str, labels: Mapping[str, str]) -> str:
    return f"{labels.get(name, name)} {run.shares.get(name, 0):.0%}"


def _both(run: Attempt, names: Sequence[str]) -> bool:
    return all(run.shares.get(name, 0) >= PASS for name in names)


def _one_slider(runs: Sequence[Attempt], labels: Mapping[str, str]) -> Assessment:
    last = runs[-1]
    meter = f"The meter says {_percent(last, 'positive', labels)}."
    if not last.used:
        return Assessment(False, f"That was the base alone, and it does not care. {meter}")
    if set(last.used) != {"positive"} or last.used["positive"] < 0:
        return Assessment(False, "Move only the first slider, to the right; the others stay at 0.")
    if last.shares.get("positive", 0) < PASS:
        return Assessment(False, f"{meter} Pull further, or draw a new seed, and generate again.")
    return Assessment(True, f"{meter} {loudest(last, labels)}")


def _sum_and_merge(runs: Sequence[Attempt], labels: Mapping[str, str]) -> Assessment:
    last = runs[-1]

    def same(run: Attempt) -> bool:
        return (run.prompt, run.seed, run.used) == (last.prompt, last.seed, last.used)

    sums = [run for run in runs if run.composition.method == "sum" and len(run.used) > 1 and same(run)]
    merges = [
        run for run in runs if METHODS[run.composition.method].merge and len(run.used) > 1 and same(run)
    ]
    if not sums:
        return Assessment(False, "Keep two sliders up and let the sum write first, with this seed.")
    if not merges:
        return Assessment(
            False, "That was the sum. Now choose a method under Merged weights, such as PEFT linear."
        )
    label = METHODS[merges[-1].composition.method].label
    pairs = zip(sums[-1].pieces, merges[-1].pieces, strict=False)
    place = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    if place is None:
        return Assessment(False, f"{label} wrote the same: it is the sum in another form. Try another one.")
    one, other = (run.pieces[place].strip() or "⏎" for run in (sums[-1], merges[-1]))
    return Assessment(
        True,
        f"Same sliders, same seed: at token {place + 1} the sum wrote “{one}” and {label} “{other}”. A merge "
        "makes one adapter first, and what it makes is not what the two add.",
    )


def _conflict(runs: Sequence[Attempt], labels: Mapping[str, str]) -> Assessment:
    last = runs[-1]
    total = sum(float(own.mean()) for own in last.contribution.values())
    parts = [
        f"{labels.get(name, name)} made {own.mean() / total:.0%}"
        for name, own in last.contribution.items()
        if total
    ]
    shares = f"Of what the adapters added, {' and '.join(parts)}." if len(parts) > 1 else ""
    meters = f"Meters: {_percent(last, 'negative', labels)}, {_percent(last, 'sports', labels)}."
    if last.used.get("negative", 0) <= 0 or last.used.get("sports", 0) <= 0:
        return Assessment(False, f"Pull the first slider to Negative, and Sports up. {shares}")
    if not _both(last, ("negative", "sports")):
        return Assessment(False, f"{meters} {shares} Turn up the one that lost.")
    return Assessment(True, f"{meters} {shares}")


def _kl(runs: Sequence[Attempt], labels: Mapping[str, str]) -> Assessment:
    last = runs[-1]
    if not METHODS[last.composition.method].needs_kl or "positive" not in last.alpha or len(last.used) < 2:
        return Assessment(False, "Keep the method on KL fusion, and both sliders up.")
    layers = len(last.alpha["positive"])
    late = slice(2 * layers // 3, layers)
    means = {name: float(own[late].mean()) for name, own in last.alpha.items()}
    told = ", ".join(f"α of {labels.get(name, name)} {value:.0%}" for name, value in means.items())
    sentence = f"In the late layers of this prompt: {told}."
    if means["positive"] <= 0.5:
        return Assessment(False, f"{sentence} Write a prompt about which a review would have more to say.")
    return Assessment(True, f"{sentence} The prompt alone decides that; no word had been written yet.")


def _broken(runs: Sequence[Attempt], labels: Mapping[str, str]) -> Assessment:
    first, last = runs[0], runs[-1]
    if first.perplexity is None or last.perplexity is None:
        return Assessment(False, "Let the text come to its end, so that it can be read once more.")
    if len(runs) == 1:
        return Assessment(
            False, f"The base finds this text likely: perplexity {first.perplexity:.1f}. Now break it."
        )
    times = last.perplexity / first.perplexity
    told = f"Perplexity {last.perplexity:.1f}, {times:.1f} times the first text's. {loudest(last, labels)}"
    if times < BROKEN:
        return Assessment(False, f"{told} Pull further, or raise the strength.")
    return Assessment(
        True,
        f"{told} Each layer was trained to read what the base writes; so large a push leaves that ground, "
        "and the "
        "next layers make the best of it.",
    )


def _contrast(runs: Sequence[Attempt], labels: Mapping[str, str]) -> Assessment:
    last = runs[-1]
    meters = f"Meters: {_percent(last, 'positive', labels)}, {_percent(last, 'sports', labels)}."
    if min(last.used.get("positive", 0), last.used.get("sports", 0)) <= 0:
        return Assessment(False, "Keep both sliders up.")
    if last.composition.method != "contrast" or last.composition.contrast == 0:
        return Assessment(
            False, f"{meters} Now choose Contrast under Method, keep the seed, and generate again."
        )
    if not _both(last, ("positive", "sports")):
        return Assessment(False, f"{meters} Try another share of the opposites, or another seed.")
    return Assessment(
        True,
        f"{meters} What Positive and Negative share, the reviews they were trained on, cancels; "
        "what is left is the mood.",
    )


LESSONS = (
    Lesson(
        "one-slider",
        "One slider",
        "An adapter is a small correction that is added in every layer; the slider says how much of it.",
        "Every slider is at 0, so the base writes alone. Generate once and look at the meters. A slider "
        "adds its "
        "adapter's output, times its number, in each of the layers.",
        "Pull Negative ↔ Positive to the right until the meter says Positive 80% or more.",
        "The movie",
        Composition(),
        0,
        "sum",
        _one_slider,
        ("positive", "negative"),
    ),
    Lesson(
        "sum-or-merge",
        "A sum is not a merge",
        "Adding two adapters' outputs and merging their weights into one adapter are different things.",
        "Two sliders are up and their outputs are summed. A linear merge averages the factors instead, and "
        "multiplying the averages gives terms that nobody asked for.",
        "Generate. Then choose PEFT linear under Method, keep the seed, and generate again.",
        "The match last night",
        Composition({"positive": 1.0, "sports": 1.25}),
        3,
        "merge",
        _sum_and_merge,
    ),
    Lesson(
        "conflict",
        "Who wins a conflict",
        "Two adapters push the same words. The louder one wins, and you decide who is louder.",
        "Positive is at 1 and Sports at 0.5: generate, and the mood drowns the topic. The map shows who "
        "was loud, "
        "the meters who got through.",
        "Now make it negative sports: both meters should pass 80%.",
        "The evening",
        Composition({"positive": 1.0, "sports": 0.5}),
        0,
        "share",
        _conflict,
        ("negative",),
    ),
    Lesson(
        "kl",
        "What KL fusion sees",
        "Before a word is written, each adapter is asked how much it would change the guess in each layer.",
        "KL fusion gives each layer to whoever moves the next word's distribution most there. Generate, "
        "and look at "
        "the fusion weights under the map.",
        "Write a prompt for which Positive gets more than half of the late layers, and generate.",
        "The team scored two goals",
        Composition({"positive": 1.0, "sports": 1.0}, "kl"),
        1,
        "kl",
        _kl,
    ),
    Lesson(
        "breaking",
        "What breaks, and why",
        "More is not better: past its sweet spot an adapter pushes the model off the ground it knows.",
        "Generate once as it stands. The page reads the text under the base: its perplexity is how "
        "surprised the "
        "base is by a word.",
        "Break it: turn Positive up until the base finds the text twice as unlikely as the first one.",
        "The movie",
        Composition({"positive": 1.0}),
        0,
        "sum",
        _broken,
    ),
    Lesson(
        "contrast",
        "Subtracting the opposite",
        "An adapter brings the domain of its training texts along. Its opposite has the same domain.",
        "Positive was trained on reviews, so it also pulls towards restaurants, away from the topic. "
        "Generate with the "
        "sum first.",
        "Then choose Contrast under Method, keep the seed, and generate: both meters should pass 80%.",
        "The crowd",
        Composition({"positive": 1.5, "sports": 1.5}, contrast=0.25),
        3,
        "contrast",
        _contrast,
        ("negative",),
    ),
)
