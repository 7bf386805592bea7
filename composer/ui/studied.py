"""What the bundled study found, as sentences beside the pictures it is about."""

from __future__ import annotations

import json
import logging
from pathlib import Path

log = logging.getLogger(__name__)

REPORT = Path(__file__).parents[2] / "assets" / "study" / "report.json"


def follows_prompt(base: str, report: Path = REPORT) -> str:
    """Whether KL's alpha follows the prompt, by the study's permutation test; nothing where there is no study
    of this base.

    base: its Hub id.
    """
    if not report.is_file():
        return ""
    try:
        found = json.loads(report.read_text("utf-8"))
        if found["base"] != base:
            return ""
        verdicts = [_verdict(each["attribute"], each["overall"]) for each in found["patterns"]]
    except (OSError, ValueError, KeyError, TypeError):
        log.warning("the study's report cannot be read; the page goes without it")
        return ""
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
