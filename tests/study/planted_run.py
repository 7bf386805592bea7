"""A finished report stage in a folder, with texts, scores and verdicts that have a known answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from composer.core.jsonable import to_jsonable
from composer.evaluation.generation import GeneratedText, Score
from composer.evaluation.judges.ngram_judge import HeldOut
from composer.evaluation.prompts import REPORT, prompts_of
from composer.evaluation.store import Store
from composer.evaluation.verdicts import Verdicts
from composer.study.design.claims import CHOSEN, ONE
from composer.study.design.plan import Cell
from composer.study.design.tuning import REFERENCES
from composer.study.run_record import FILE, RunRecord, StoredSetting, write_run
from tests.study.planted import PAIR

PROMPTS = prompts_of((f"A new beginning {number}" for number in range(60)), REPORT, 20)
SHARES = {
    "base": 0.1,
    "single-sentiment": 0.2,
    "single-topic": 0.2,
    "sum": 0.8,
    "average": 0.3,
    "contrast": 0.8,
    "kl-paper": 0.05,
}
TEST = {"gain": 0.1, "p": 0.01, "prompts": 16}
PATTERN = {
    "attribute": "sentiment",
    "names": ["negative", "positive"],
    "alpha": [[0.4, 0.6], [0.3, 0.7]],
    "own": [[0.5, None], [0.45, None]],
    "overall": TEST,
    "last": TEST,
    "each": {"negative": TEST},
    "norm_correlation": 0.5,
}


@dataclass(frozen=True)
class Reader:
    """A judge that reads its answer off the text."""

    attribute: str
    label: str
    name: str
    labels: tuple[str, ...] = ("yes", "no")
    scores: tuple[HeldOut, ...] = (HeldOut("rows", 100, 0.9),)

    def __call__(self, texts):
        return [self.label if "right" in text else "no" for text in texts]


def write(folder: Path, precision: str = "none", module_seeds: int = 1, **shares: float) -> Path:
    """Packed, as a bundled run is. shares: arms with another chance of being right than in SHARES."""
    settings, cells, texts = [], [], []
    for salt, (arm, share) in enumerate((SHARES | shares).items()):
        random = np.random.default_rng(salt)
        for setting, strength in ((ONE, 1.0), (CHOSEN, 0.75)):
            if setting == CHOSEN and arm in REFERENCES:
                continue
            fluent = setting == ONE or arm != "kl-paper"
            settings.append(StoredSetting(arm, setting, {}, strength, fluent))
            for prompt in PROMPTS:
                for module_seed in range(module_seeds):
                    key = f"{arm} {setting} {prompt} {module_seed}"
                    words = " right" if random.random() < share else " off"
                    texts += [GeneratedText(key, prompt, 0, {}, words), Score(key, 9.0 + salt)]
                    cells.append(Cell(arm, PAIR, strength, prompt, 0, key, module_seed, setting))
    store = Store(folder)
    store.run_pending([], lambda *_: iter(texts))
    store.pack()
    verdicts = Verdicts(folder)
    for attribute, label in PAIR.wanted:
        made = [each for each in texts if isinstance(each, GeneratedText)]
        verdicts.add(Reader(attribute, label, f"{attribute} (planted)"), made)
    verdicts.pack()
    record = RunRecord(
        REPORT,
        "me/tiny",
        "Tiny",
        precision,
        module_seeds,
        1,
        1,
        {},
        PROMPTS,
        tuple(settings),
        tuple(cells),
        (),
        (to_jsonable(PATTERN),),
        ("Made by hand.",),
    )
    write_run(record, folder / FILE)
    return folder
