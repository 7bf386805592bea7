"""An explanation as blocks: short tables, each after a paragraph on how to read it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from composer.analysis.explanation import Explanation
from composer.analysis.findings import findings
from composer.analysis.layer_ablation import BANDS
from composer.core.document import Block, Paragraph, plain_text, table
from composer.methods import METHODS
from composer.methods.base import band_profile

LONGEST = 40


def as_text(found: Explanation) -> str:
    """The explanation as text for a terminal."""
    return plain_text(blocks(found))


def blocks(found: Explanation) -> list[Block]:
    """A few tables, each after how to read it. Layers are averaged per third."""
    sections = [_head, _findings, _tokens, _superposition, _bands]
    if found.deltas is not None:
        sections.append(_sizes)
    if found.pairs:
        sections += [_conflict, _leakage, *([_pairs] if found.deltas is not None else [])]
    return [block for section in sections for block in section(found)]


def _head(found: Explanation) -> Iterator[Block]:
    who = ", ".join(f"{name} ({_mean(found.gates[:, i]):+.2f})" for i, name in enumerate(found.adapters))
    yield Paragraph(f"{found.prompt}{found.text}")
    gates = (
        "gates before each token shares them out"
        if METHODS[found.composition.method].token_routed
        else "gates"
    )
    yield Paragraph(
        f"{found.base}, {found.composition.method}. Taking part, with mean {gates}: {who or 'no adapter'}. "
        f"Layers: {_thirds(found.layers)}."
    )
    if METHODS[found.composition.method].merge and len(found.adapters) == 1:
        notes = ", ".join(f"{name} {value:.3f}" for name, value in found.notes.items())
        yield Paragraph(
            f"One adapter was made of them all ({notes}), so there are no two to compare; the sum has them."
        )
    if found.composition.live or METHODS[found.composition.method].every_token:
        yield Paragraph(
            "Read with the gates of the prompt alone; while it was written they were read anew (live)."
        )


def _findings(found: Explanation) -> Iterator[Block]:
    for sentence in findings(found, {name: name for name in found.adapters}).values():
        yield Paragraph(sentence)


def _tokens(found: Explanation) -> Iterator[Block]:
    yield Paragraph(
        "Who chose each token: the adapter that alone raised its log-probability most (nats over the base)."
    )
    rows = []
    read = found.attribution
    for place, (piece, winner) in enumerate(zip(found.pieces, found.winners, strict=True)):
        raised = [f"{value:+.2f}" for value in read.raised[:, place]]
        together = f"{read.composed[place] - read.base[place]:+.2f}"
        rows.append([_shown(piece), winner or "nobody", *raised, together])
    yield table(["token", "chosen by", *found.adapters, "together"], rows)


def _superposition(found: Explanation) -> Iterator[Block]:
    yield Paragraph(
        f"Additivity {_number(found.additivity, '.2f')}: 1 if the composition changes the next token's "
        "logits by the sum of what each adapter does alone; 0 or less if the adapters mostly act on each "
        "other between the layers."
    )


def _bands(found: Explanation) -> Iterator[Block]:
    yield Paragraph(
        "Without a third of the layers: change of the text's log-probability (nats per token; negative: "
        "that third carried the text), and how far the next token's distribution moves (KL, nats)."
    )
    rows = [
        [who, *(f"{found.bands.change[k, i]:+.3f} / {found.bands.kl[k, i]:.3f}" for k in range(len(BANDS)))]
        for i, who in enumerate([*found.adapters, "all adapters"])
    ]
    yield table(["left out", *BANDS], rows)


def _sizes(found: Explanation) -> Iterator[Block]:
    yield Paragraph(
        "Size of each adapter's change of the weights, as a share of the base's own (|DW| / |W0|)."
    )
    rows = [[name, *_by_third(found.deltas.relative[:, i], ".4f")] for i, name in enumerate(found.adapters)]
    yield table(["adapter", *BANDS], rows)


def _conflict(found: Explanation) -> Iterator[Block]:
    if METHODS[found.composition.method].on_logits:
        yield Paragraph("Adapters meet in the logits alone, so there is no conflict inside the layers.")
        return
    yield Paragraph(
        "Conflict on this prompt: cosine of two adapters' outputs as they are added, at the last token "
        "(and averaged over the prompt). +1 they pull together, 0 they do not meet, -1 they fight."
    )
    rows = []
    for i, j in found.pairs:
        last = _by_third(found.conflict_last[:, i, j], "+.2f")
        mean = _by_third(found.conflict_mean[:, i, j], "+.2f")
        rows.append([_pair(found, i, j), *(f"{a} ({b})" for a, b in zip(last, mean, strict=True))])
    yield table(["pair", *BANDS], rows)


def _leakage(found: Explanation) -> Iterator[Block]:
    yield Paragraph(
        "Leakage: with the first adapter alone on this prompt, how large the second one's output would be "
        "beside it, both at gate 1 whatever their weights. 0: it keeps out; 1: it would speak as loudly."
    )
    rows = [
        [f"{found.adapters[i]} <- {found.adapters[j]}", *_by_third(found.leakage[:, i, j], ".2f")]
        for pair in found.pairs
        for i, j in (pair, pair[::-1])
    ]
    yield table(["adapters", *BANDS], rows)


def _pairs(found: Explanation) -> Iterator[Block]:
    yield Paragraph(
        "By the adapters alone, whatever the prompt; in brackets what chance would give. cosine: of the "
        "two changes of the weights, -1 opposite, +1 the same; by site: its root mean square over sites. "
        "reads, writes: overlap of the directions they read from (A) and write to (B), 0 to 1; adapters "
        "trained from one seed begin with the same A. louder: |DW| of the first over the second's. "
        "c_1 (Pico's collision): share of the largest direction among all that the two write to; 1: both "
        "write along one line, or one writes far more than the other."
    )
    deltas, shared = found.deltas, found.subspaces
    rows = [
        [
            _pair(found, i, j),
            _number(deltas.overall[i, j], "+.3f"),
            _beside_chance(deltas.rms[i, j], deltas.chance[i, j]),
            _beside_chance(_mean(shared.reads[:, i, j]), _mean(shared.reads_chance[:, i, j])),
            _beside_chance(_mean(shared.writes[:, i, j]), _mean(shared.writes_chance[:, i, j])),
            _number(deltas.ratio[i, j], ".2f"),
            _number(_mean(shared.collisions[:, i, j]), ".2f"),
        ]
        for i, j in found.pairs
    ]
    yield table(["pair", "cosine", "by site", "reads", "writes", "louder", "c_1"], rows)
    if len(found.adapters) > 2:
        yield Paragraph("c_1 of all of them together:")
        yield table(["", *BANDS], [["c_1", *_by_third(shared.collision, ".2f")]])


def _pair(found: Explanation, i: int, j: int) -> str:
    return f"{found.adapters[i]} + {found.adapters[j]}"


def _shown(piece: str) -> str:
    """A token in one line; half a character and an end token have no text of their own."""
    return repr(piece[:LONGEST])[1:-1] if piece else "(none)"


def _thirds(layers: int) -> str:
    third = band_profile((0, 1, 2), layers)
    parts = [np.flatnonzero(third == k) for k in range(len(BANDS))]
    return ", ".join(f"{name} {p[0]}-{p[-1]}" for name, p in zip(BANDS, parts, strict=True) if len(p))


def _by_third(values: np.ndarray, form: str) -> list[str]:
    """[L] -> the mean of each third, as text."""
    third = band_profile((0, 1, 2), len(values))
    return [_number(_mean(values[third == k]), form) for k in range(len(BANDS))]


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _beside_chance(value: float, chance: float) -> str:
    return f"{_number(value, '.3f')} ({_number(chance, '.3f')})"


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
