"""What the bundled judges say of a text so far, for bases whose adapters their labels name."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from composer.core.errors import ComposerError
from composer.evaluation.judges.ngram_judge import NgramJudge
from composer.evaluation.judges.serialization import load_judges

log = logging.getLogger(__name__)

# A judge of two words guesses.
FEWEST_WORDS = 4


@dataclass(frozen=True)
class Meters:
    """Judges, and how the adapters that their labels name are shown."""

    judges: tuple[NgramJudge, ...]
    # Adapter name -> label and color.
    legend: Mapping[str, Mapping[str, str]]

    @classmethod
    def load(cls, legend: Sequence[Mapping[str, str]]) -> Meters:
        """The bundled judges that fit; none where scikit-learn is missing or a file is damaged."""
        by_name = {each["name"]: each for each in legend}
        try:
            judges = load_judges() if find_spec("sklearn") else ()
        except ComposerError as fault:
            log.warning("the page goes without meters: %s", fault)
            judges = ()
        return cls(tuple(each for each in judges if set(each.labels) <= set(by_name)), by_name)

    def __call__(self, text: str) -> list[dict[str, object]]:
        """One meter a judge: its likeliest label. Empty for a text of a few words."""
        if len(re.findall(r"\w+", text[:200])) < FEWEST_WORDS:
            return []
        return [self._meter(judge, text) for judge in self.judges]

    @property
    def labels(self) -> set[str]:
        """The attributes that some judge decides on."""
        return {label for judge in self.judges for label in judge.labels}

    def shares(self, text: str) -> dict[str, float]:
        """What the judges give each of their labels."""
        return {label: share for judge in self.judges for label, share in judge.shares(text).items()}

    def _meter(self, judge: NgramJudge, text: str) -> dict[str, object]:
        name, share = max(judge.shares(text).items(), key=lambda each: each[1])
        shown = self.legend[name]
        hint = f"The judge {judge.name}; on held-out texts it is right {judge.accuracy:.0%} of the time."
        return {"label": shown["label"], "color": shown["color"], "share": round(share, 3), "hint": hint}
