"""What the bundled study found, as words and a table for the page."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from composer.core.assets import ASSETS

log = logging.getLogger(__name__)

REPORT = ASSETS / "study" / "report.json"
WAYS = (
    "Our study asked each for a mood and a topic at once: how many of its texts had both, as two "
    "judges say (in brackets: 95% interval), and the texts' perplexity under the base (lower is more "
    "fluent). Once at strength 1, once at the strength that was chosen on other prompts, the best that kept "
    "perplexity within 1.5 times that of one adapter alone (- where none does): a way that hits more at "
    "strength 1 may only be louder."
)

UNFINISHED = "It is not finished: some texts are not there yet."


def follows_prompt(base: str, precision: str, report: Path = REPORT) -> str:
    """Whether KL's alpha follows the prompt, by the study's permutation test; nothing where there is no study
    of this base.

    base, precision: its Hub id and its quantization.
    """
    return _told(base, precision, report, _verdicts)


def standings(base: str, precision: str, report: Path = REPORT) -> str:
    """The study's leaderboard as Markdown, best first; empty without a study of this base.

    base, precision: its Hub id and its quantization.
    """
    return _told(base, precision, report, _standings)


def _told(base: str, precision: str, report: Path, tell: Callable[[dict], str]) -> str:
    """Of the run on this base; one at another precision stands in where there is none."""
    if not report.is_file():
        return ""
    try:
        runs = json.loads(report.read_text("utf-8"))["runs"]
        own = sorted(
            (each for each in runs if each["base"] == base), key=lambda each: each["precision"] != precision
        )
        return tell(own[0]) if own else ""
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
    if not found["standings"]:
        return ""
    unfinished = [UNFINISHED] if found["unfinished"] else []
    return "\n\n".join(["### Which one works?", WAYS, *unfinished, found["standings"]])
