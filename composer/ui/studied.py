"""What the bundled study found, as words and a table for the page."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

REPORT = Path(__file__).parents[2] / "assets" / "study" / "report.json"
# The kind of target that asks for two things at once.
PAIR = "pair"
WAYS = (
    "Our study asked each for a mood and a topic at once: how many of its texts had both, as two "
    "judges say (in brackets: 95% interval), and the texts' perplexity under the base (lower is more "
    "fluent). Once at strength 1, once at the best strength that keeps perplexity within 1.5 times "
    "that of one adapter alone: a way that hits more at strength 1 may only be louder."
)

UNFINISHED = "It is not finished: some ways may do better at a strength that they have not been tried at yet."


def follows_prompt(base: str, report: Path = REPORT) -> str:
    """Whether KL's alpha follows the prompt, by the study's permutation test; nothing where there is no study
    of this base.

    base: its Hub id.
    """
    return _told(base, report, _verdicts)


def standings(base: str, report: Path = REPORT) -> str:
    """How often each way of composing gave a text both things asked of it, as Markdown, best first; nothing
    where there is no study of this base.

    base: its Hub id.
    """
    return _told(base, report, _standings)


def _told(base: str, report: Path, tell: Callable[[dict], str]) -> str:
    if not report.is_file():
        return ""
    try:
        found = json.loads(report.read_text("utf-8"))
        return tell(found) if found["base"] == base else ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        log.warning("the study's report cannot be read; the page goes without it")
        return ""


def _verdicts(found: dict) -> str:
    verdicts = [_verdict(each["attribute"], each["overall"]) for each in found["patterns"]]
    if not verdicts:
        return ""
    return (
        "Does it know what the prompt is about? In our study, a permutation test over prompts that belong to "
        f"one adapter: {'; '.join(verdicts)}."
    )


def _verdict(attribute: str, overall: dict) -> str:
    """sentiment yes (p = 0.041, 24 prompts)"""
    known = "yes" if overall["p"] < 0.05 else "not shown"
    return f"{attribute} {known} (p = {overall['p']:.2g}, {overall['prompts']} prompts)"


def _standings(found: dict) -> str:
    lines = [line for line in found["kinds"].get(PAIR, ()) if line["one"]]
    if not lines:
        return ""
    # Those that are not fluent at their best come last, as they are at strength 1.
    lines.sort(key=lambda line: (not line["fluent"], -(line["best"] or line["one"])["control"]["value"]))
    rows = [
        f"| {found['labels'][line['arm']]} | {_measured(line['one'])} "
        f"| {_measured(line['best'] if line['fluent'] else None)} "
        f"| {_strengths(line['strengths'] if line['fluent'] else [])} |"
        for line in lines
    ]
    return "\n".join(
        [
            "### Which one works?",
            "",
            WAYS,
            "",
            *([UNFINISHED, ""] if found["unfinished"] else ()),
            "| way | both, at 1 | perplexity | both, fluent | perplexity | strength |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _measured(found: dict | None) -> str:
    """Two cells: 75.9% [69%, 83%] | 11.7"""
    if found is None:
        return "- | -"
    share, spread = found["control"], found["perplexity"]
    cell = f"{share['value']:.0%} [{share['low']:.0%}, {share['high']:.0%}]"
    return f"{cell} | {'-' if spread is None else format(spread, '.1f')}"


def _strengths(chosen: list[float]) -> str:
    return " / ".join(f"{strength:g}" for strength in chosen) or "-"
