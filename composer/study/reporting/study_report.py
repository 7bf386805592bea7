"""The study's findings as blocks of a report: what was found, how sure it is, and what could not be made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from composer.core.document import Block, DataTable, Heading, Paragraph, Picture
from composer.evaluation.metrics import Interval
from composer.study.design.arms import Arm
from composer.study.design.choices import FLUENT
from composer.study.design.plan import Missing
from composer.study.design.targets import PAIR
from composer.study.reporting import figures
from composer.study.reporting.leaderboard import difference, standings
from composer.study.statistics.alpha_profile import AlphaProfile
from composer.study.statistics.permutation_test import TEST, PermutationResult
from composer.study.statistics.summary import (
    BASELINES,
    ArmMetrics,
    ArmSummary,
    AttributeControl,
    PairInterference,
)

TITLE = "Which way of composing works?"
KINDS = {
    "sentiment": "Sentiment alone",
    "topic": "Topic alone",
    "pair": "Sentiment x topic",
    "triple": "Sentiment x topic, with the multi-attribute module (S, T and M)",
}

COLOURED = "In colour the best of each family; the others are grey and say who they are under the pointer."


@dataclass(frozen=True)
class Findings:
    """Everything the report says."""

    arms: Mapping[str, Arm]
    # By kind of target.
    lines: Mapping[str, Sequence[ArmSummary]]
    parts: Sequence[AttributeControl]
    patterns: Sequence[AlphaProfile]
    clashes: Sequence[PairInterference]
    missing: Sequence[Missing]
    # Sentence -> how many texts it cost.
    faults: Mapping[str, int]
    notes: Sequence[str]
    # A warning where texts are still missing.
    unfinished: str | None = None
    # The judges and their accuracy.
    judged: str = ""


def blocks(findings: Findings) -> list[Block]:
    """The whole report in order."""
    labels = {name: arm.label for name, arm in findings.arms.items()}
    found: list[Block] = [Heading(TITLE, 1), Paragraph(_reading())]
    if findings.unfinished:
        found.append(Paragraph(findings.unfinished))
    if pairs := findings.lines.get(PAIR):
        found += [Heading("In short: two at once"), standings(pairs, findings.arms)]
        found += [Paragraph(findings.judged)] if findings.judged else []
    for kind, lines in findings.lines.items():
        found += _kind(KINDS.get(kind, kind), lines, findings)
    found += _parts(findings.parts, labels)
    found += pattern_blocks(findings.patterns)
    found += _clashes(findings.clashes)
    found += _missing(findings, labels)
    found += [Heading("The arms"), _arms(findings.arms)]
    return [*found, Heading("How it was made"), *map(Paragraph, findings.notes)]


def _reading() -> str:
    return (
        "Control: share of texts that have all that was wanted, as the judges say, prompt and continuation "
        "read together. In brackets: 95% interval, a bootstrap over prompts. Differences are in points and "
        "paired: same target, prompt and seed in both arms; each says whether its interval excludes zero. "
        "Nothing is corrected for the number of comparisons. Best strength: the highest control among the "
        f"strengths whose median perplexity is at most {FLUENT:g} times the modules' own at strength 1. It "
        "is chosen on one half of the prompts and reported on the other, both ways round, so that no text is "
        "reported at a strength it helped to choose; both choices are named where they differ. It is looked "
        "for only among texts that all strengths have. Perplexity: median, of the continuation under the "
        "base. Repetition: share of a text's word 4-grams that it had before."
    )


def _kind(title: str, lines: Sequence[ArmSummary], findings: Findings) -> list[Block]:
    return [
        Heading(title),
        *([Paragraph(findings.judged)] if findings.judged else ()),
        *_tables(lines, {name: arm.label for name, arm in findings.arms.items()}),
        Picture(
            figures.strength_figure(lines, findings.arms),
            f"{title}: control against strength, on the texts that all of an arm's strengths have; 95% "
            f"intervals. {COLOURED}",
        ),
        Picture(
            figures.fluency_figure(lines, findings.arms),
            f"{title}: control against median perplexity, a point per strength; up and left is better. "
            f"{COLOURED}",
        ),
    ]


def _tables(lines: Sequence[ArmSummary], labels: Mapping[str, str]) -> list[Block]:
    rivals = (f"minus {labels.get(rival, rival).lower()}" for rival in BASELINES)
    head = ("texts", "control [95%]", *rivals, "perplexity", "repetition")
    ones = [(labels[line.arm], *_measured(line.one)) for line in lines if line.one]
    bests = [
        (labels[line.arm], " / ".join(f"{strength:g}" for strength in line.strengths), *_measured(line.best))
        for line in sorted(lines, key=lambda line: -line.best.control.value if line.best else 0)
        if line.best and line.fluent
    ]
    loud = ", ".join(labels[line.arm] for line in lines if line.best and not line.fluent)
    never = f"At no strength tried within the bound on perplexity, on half of the prompts or all: {loud}."
    once = ", ".join(labels[line.arm] for line in lines if not line.best)
    untried = f"Not tried at all strengths, so without a best one: {once}."
    found: list[Block] = []
    if ones:
        found += [Heading("At strength 1", 3), DataTable(("arm", *head), tuple(ones))]
    if bests:
        found += [Heading("At the best strength", 3), DataTable(("arm", "strength", *head), tuple(bests))]
    return [*found, *map(Paragraph, [*([never] if loud else ()), *([untried] if once else ())])]


def _parts(parts: Sequence[AttributeControl], labels: Mapping[str, str]) -> list[Block]:
    if not parts:
        return []
    rows = tuple(
        (labels[part.arm], part.attribute, _share(part.control), difference(part.change)) for part in parts
    )
    return [
        Heading("Each attribute by itself, in texts that should have both (strength 1)"),
        DataTable(("arm", "attribute", "control [95%]", "minus that module alone"), rows),
    ]


def pattern_blocks(patterns: Sequence[AlphaProfile]) -> list[Block]:
    """Whether KL's alpha follows the prompt; nothing without profiles."""
    if not patterns:
        return []
    rows = []
    for pattern in patterns:
        rows.append((f"{pattern.attribute}, mean over layers", *_follow(pattern.overall)))
        rows.append((f"{pattern.attribute}, last layer", *_follow(pattern.last)))
        if len(pattern.names) > 2:  # two share out a whole: what one gains the other loses
            rows += [(f"{name}, mean over layers", *_follow(each)) for name, each in pattern.each.items()]
    loud = "; ".join(
        f"{pattern.attribute} {pattern.norm_correlation:.2f}"
        for pattern in patterns
        if pattern.norm_correlation is not None
    )
    return [
        Heading("Does KL's alpha follow the prompt?"),
        Paragraph(TEST),
        DataTable(("alpha of", "own prompts", "gain", "p", "verdict"), tuple(rows)),
        *([Paragraph(f"Correlation of alpha with the adapters' own norms: {loud}.")] if loud else ()),
        Picture(
            figures.pattern_figure(patterns),
            "Alpha per layer: solid on the study's prompts, which are nobody's, dotted on an adapter's own.",
        ),
    ]


def _follow(found: PermutationResult) -> tuple[str, ...]:
    return str(found.prompts), f"{100 * found.gain:+.1f} points", f"{found.p:.4f}", found.verdict


def _clashes(clashes: Sequence[PairInterference]) -> list[Block]:
    if not clashes:
        return []
    rows = tuple(
        (clash.target, f"{clash.conflict:+.4f}", f"{100 * clash.loss:+.1f} points") for clash in clashes
    )
    x, y = [clash.conflict for clash in clashes], [clash.loss for clash in clashes]
    varies = len(clashes) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0
    correlation = f" Correlation over {len(clashes)} pairs: {np.corrcoef(x, y)[0, 1]:+.2f}." if varies else ""
    return [
        Heading("Conflict against measured loss"),
        Paragraph(
            "Conflict: cosine of the two modules' changes of the weights, all sites together (-1 fight, +1 "
            "the same). Loss: each attribute's control with its module alone less its control in the sum, "
            f"mean of the two, at strength 1.{correlation}"
        ),
        DataTable(("pair", "cosine", "loss"), rows),
        Picture(figures.clash_figure(clashes), "What composing a pair costs against its cosine."),
    ]


def _missing(findings: Findings, labels: Mapping[str, str]) -> list[Block]:
    rows = [
        (labels[each.arm] if each.arm else "every arm", ", ".join(each.targets) or "all", each.reason)
        for each in findings.missing
    ]
    rows += [(f"{count} texts", "-", sentence) for sentence, count in findings.faults.items()]
    if not rows:
        return []
    return [Heading("What could not be made"), DataTable(("arm", "targets", "why"), tuple(rows), words=3)]


def _arms(arms: Mapping[str, Arm]) -> DataTable:
    families = list(dict.fromkeys(arm.family for arm in arms.values()))
    rows = sorted(arms.values(), key=lambda arm: families.index(arm.family))
    return DataTable(
        ("arm", "name", "family", "what it does", "source"),
        tuple((arm.label, arm.name, arm.family, arm.help, arm.source) for arm in rows),
        words=5,
    )


def _measured(found: ArmMetrics) -> tuple[str, ...]:
    spread = "-" if found.perplexity is None else f"{found.perplexity:.1f}"
    repeated = "-" if found.repetition is None else f"{found.repetition:.1%}"
    gaps = (difference(found.beside.get(rival)) for rival in BASELINES)
    return str(found.texts), _share(found.control), *gaps, spread, repeated


def _share(found: Interval) -> str:
    return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"
