"""A sweep for the browser: its curves or its heat map, how far it is, and what is best."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping

from composer.core.jsonable import to_jsonable
from composer.evaluation.dose.sweep import Dose
from composer.evaluation.metrics import Interval


def busy(sentence: str) -> dict[str, object]:
    """What is shown before the first text."""
    return {"message": f"{sentence}…", "busy": True, "done": 0, "total": 0}


def fault(sentence: str) -> dict[str, object]:
    """What is shown where nothing could be swept."""
    return {"message": sentence, "error": True}


def view(
    dose: Dose, legend: Mapping[str, Mapping[str, str]], seconds: float, state: str = ""
) -> dict[str, object]:
    """The value of the component. legend: adapter -> label and color. state: a word for what it is doing now;
    empty when it is over."""
    done, total = len(dose.texts) + len(dose.faults), len(dose.plan.tasks)
    labels = {name: each["label"] for name, each in legend.items()}
    spot, rows = dose.sweet_spot(labels), dose.rows()
    left = seconds / done * (total - done) if done else 0.0
    message = f"{done} of {total} texts" + (f", about {left:.0f} s left" if state and done else "")
    return {
        "message": f"{message}. {state}".strip() if done else f"{state}…",
        "busy": bool(state),
        "done": done,
        "total": total,
        "axes": [
            {"label": labels.get(axis.adapter, axis.adapter), "weights": list(axis.weights)}
            for axis in dose.plan.axes
        ],
        "series": [
            {
                **legend[name],
                "means": dose.deciders[name].means,
                "values": [_share(row.right[name]) for row in rows],
            }
            for name in dose.targets
        ],
        "together": [_share(row.together) for row in rows],
        "perplexity": to_jsonable([row.perplexity for row in rows]),
        "repetition": to_jsonable([row.repetition for row in rows]),
        "texts": [row.texts for row in rows],
        "spot": spot.point,
        "finding": spot.sentence,
        "fault": dose.faults[0] if dose.faults else "",
        "files": files(dose) if not state and done else {},
    }


def _share(interval: Interval | None) -> list[float | None]:
    """The share and the ends of its interval."""
    return [None] * 3 if interval is None else [interval.value, interval.low, interval.high]


def files(dose: Dose) -> dict[str, str]:
    """The results by the ending of their file: the table as CSV; texts, settings and table as JSON."""
    head, table = dose.table()
    out = io.StringIO()
    csv.writer(out).writerows([head, *table])
    plan = dose.plan
    document = {
        "composition": plan.composition.as_dict(),
        "sweep": {axis.adapter: axis.weights for axis in plan.axes},
        "table": [dict(zip(head, row, strict=True)) for row in table],
        "sweet_spot": dose.sweet_spot().sentence,
        "texts": [
            {
                "weights": plan.points[plan.tasks[task].point],
                "prompt": plan.tasks[task].prompt,
                "seed": plan.tasks[task].seed,
                "text": text,
                "perplexity": perplexity,
            }
            for task, (text, perplexity) in sorted(dose.texts.items())
        ],
    }
    return {"csv": out.getvalue(), "json": json.dumps(to_jsonable(document), ensure_ascii=False, indent=1)}
