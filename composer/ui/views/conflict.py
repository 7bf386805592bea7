"""An explanation for the browser: four pictures, how to read each, and what it says here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from composer.analysis.explanation import Explanation
from composer.analysis.findings import findings, used_pairs
from composer.analysis.layer_ablation import BANDS
from composer.core.jsonable import to_jsonable

MOST_PAIRS = 10
GREY = "#868c98"
MINUS = "\N{MINUS SIGN}"


def busy(sentence: str) -> dict[str, object]:
    """What is shown while something is computed."""
    return {"message": f"{sentence}…", "busy": True}


def fault(sentence: str) -> dict[str, object]:
    """What is shown where nothing could be measured."""
    return {"message": sentence, "error": True}


def view(found: Explanation, legend: Mapping[str, Mapping[str, str]], seconds: float) -> dict[str, object]:
    """The value of the component. legend: adapter -> label and color."""
    shown = [legend.get(name, {"label": name, "color": "#888888"}) for name in found.adapters]
    labels = {name: each["label"] for name, each in zip(found.adapters, shown, strict=True)}
    first = used_pairs(found)
    used = sorted({i for pair in first for i in pair}) or list(range(len(shown)))
    # After them what a method subtracts, as it meets those in use.
    others = [pair for pair in found.pairs if pair not in first and set(pair) & set(used)]
    pairs = [*first, *others][:MOST_PAIRS]
    return {
        "message": f"{len(found.tokens)} tokens read in {seconds:.1f} s.",
        "prompt": found.prompt,
        "text": found.text,
        "layers": found.layers,
        "findings": findings(found, labels),
        "conflict": [
            {
                "label": f"{shown[i]['label']} {MINUS if found.subtracts(j) else '+'} {shown[j]['label']}",
                "colors": [shown[i]["color"], shown[j]["color"]],
                "values": _short(found.conflict_mean[:, i, j]),
            }
            for i, j in (pair if pair[0] in used else pair[::-1] for pair in pairs)
        ],
        "additivity": {
            "pieces": list(found.pieces),
            "values": _short(found.additivity_by_token),
        },
        "outputs": [
            {**shown[i], "values": _short(found.outputs[:, i] / found.outputs[:, used].sum(axis=1), 3)}
            for i in used
        ],
        "bands": {
            "names": list(BANDS),
            "rows": [
                *({**shown[i], "values": _short(found.bands.change[:, i], 3)} for i in used),
                {"label": "all of them", "color": GREY, "values": _short(found.bands.change[:, -1], 3)},
            ],
        },
        "file": json.dumps(found.to_json(), ensure_ascii=False),
    }


def _short(values: Sequence[float] | np.ndarray, digits: int = 2) -> list[float | None]:
    return to_jsonable(np.round(np.asarray(values, float), digits))
