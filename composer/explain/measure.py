"""A few batched passes over one prompt and one text, and every measurement of insight made from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from composer.engine import Engine
from composer.explain.explanation import Explanation
from composer.insight.additivity import additivity
from composer.insight.attribution import Attribution
from composer.insight.bands import BandsOut, divergence, leave_out
from composer.insight.conflict import Heard, Outputs, as_added, leakage
from composer.insight.deltas import compare_deltas
from composer.insight.listen import chosen, listening
from composer.insight.subspace import compare_subspaces
from composer.methods.registry import band_profile
from composer.model.forced import Ear, forced
from composer.model.inject import gates_tensor
from composer.model.layout import Layout
from composer.model.norms import weight_norms
from composer.model.route import Route
from composer.model.text import Continuation
from composer.shelf import Shelf
from composer.spec import ComposerError, Composition, Sampling


class Rows(NamedTuple):
    """What B teacher-forced rows say. first: logits after the prompt [B, V]. log_probs: the text's, [B, T].

    ears: who listened, one for each pass.
    """

    first: np.ndarray
    log_probs: np.ndarray
    ears: list[Ear | None]


class Text(NamedTuple):
    """A continuation's tokens, and each one as it is shown."""

    tokens: tuple[int, ...]
    pieces: tuple[str, ...]


def explain(
    engine: Engine,
    prompt: str,
    composition: Composition = Composition(),
    sampling: Sampling = Sampling(temperature=0),
    text: str | None = None,
) -> Explanation:
    """Measure what a composition does to this prompt and its continuation.

    text: the continuation; None: generated under the composition and `sampling`. Raises ComposerError for a
    prompt, a text or a composition that cannot be used.
    """
    shelf = engine.shelf
    row = engine.row(shelf, 0, prompt, composition, sampling)
    columns = _taking_part(shelf, composition, row.gates)
    gates = row.gates[:, columns]  # [L, n]
    said = (
        _generated(engine, prompt, composition, sampling) if text is None else _given(engine, row.ids, text)
    )

    layer_of, layers, count = engine.model.layer_of, engine.layers, len(columns)
    bank = chosen(shelf.bank, columns)
    # An adapter alone keeps the share that it has among those who take part; the twins take no part.
    route = row.route and replace(row.route, part=row.route.part[columns])
    read = _reader(engine, row.ids, said.tokens, route)
    # Rows: the base, each adapter alone, the composition. Their twins listen at gate 1.
    rows = np.zeros((count + 2, layers, 2 * count), np.float32)
    rows[:, :, count:] = 1
    for column in range(count):
        rows[1 + column, :, column] = gates[:, column]
    rows[-1, :, :count] = gates
    whole = read(listening(bank), rows, lambda: Outputs(bank, layer_of, layers, len(row.ids)))
    heard = _heard(whole.ears if bank.sites else [], len(rows), layers, count)

    silent = leave_out(gates, band_profile((0, 1, 2), layers))  # [3, n + 1, L, n]
    composed, shape = whole.log_probs[-1], silent.shape[:2]
    without = read(bank, silent.reshape(np.prod(shape), layers, count))

    return Explanation(
        base=engine.base.id,
        prompt=prompt,
        text="".join(said.pieces),
        composition=composition,
        adapters=bank.names,
        layers=layers,
        tokens=said.tokens,
        pieces=said.pieces,
        gates=gates,
        conflict_last=as_added(heard.last[-1], gates),
        conflict_mean=as_added(heard.mean[-1], gates),
        deltas=compare_deltas(bank, layer_of, layers, weight_norms(engine.model, bank.sites)),
        subspaces=compare_subspaces(bank, layer_of, layers),
        leakage=leakage(heard.size[1:-1]),
        additivity=additivity(whole.first[0], whole.first[1:-1], whole.first[-1]),
        attribution=Attribution(whole.log_probs[0], whole.log_probs[1:-1], composed),
        bands=BandsOut(
            change=(without.log_probs - composed).mean(axis=1).reshape(shape),
            kl=divergence(whole.first[-1], without.first).reshape(shape),
        ),
    )


def _taking_part(shelf: Shelf, composition: Composition, gates: np.ndarray) -> list[int]:
    """Columns with a weight, and those that the method gives a gate besides (`contrast` does)."""
    named = {shelf.index(name) for name, weight in composition.weights.items() if weight != 0}
    return sorted(named | set(np.flatnonzero(gates.any(axis=0)).tolist()))


def _generated(engine: Engine, prompt: str, composition: Composition, sampling: Sampling) -> Text:
    steps = list(engine.generate(prompt, composition, sampling))
    return Text(tuple(step.token for step in steps), tuple(step.piece for step in steps))


def _given(engine: Engine, prompt: Sequence[int], text: str) -> Text:
    """The tokens of a text somebody brings, after a prompt's tokens."""
    if not isinstance(text, str) or not text.strip():
        raise ComposerError("The text to explain is empty; leave it out to have one generated.")
    room = engine.base.context - len(prompt)
    try:
        # A flood is refused before it is tokenised: no token is more than a few dozen characters.
        tokens = engine.base.tokenizer(text[: 64 * (room + 1)], add_special_tokens=False)["input_ids"]
    except (UnicodeError, TypeError) as fault:
        raise ComposerError(
            "The text to explain has broken characters (lone surrogates); type it again as plain text."
        ) from fault
    if len(tokens) > room:
        raise ComposerError(
            f"The text to explain is too long; prompt and text may have {engine.base.context} tokens."
        )
    shown = Continuation(engine.base.tokenizer, prompt, frozenset())
    pieces = [shown.push(token, last=place == len(tokens)) for place, token in enumerate(tokens, start=1)]
    return Text(tuple(tokens), tuple(pieces))


def _reader(
    engine: Engine, prompt: Sequence[int], text: Sequence[int], route: Route | None
) -> Callable[..., Rows]:
    """A function of a bank and gates [B, L, N of the bank] that reads prompt + text once for every row."""

    def read(bank, gates: np.ndarray, listen: Callable[[], Ear] | None = None) -> Rows:
        layout: Layout = engine.model.layout(bank)
        on_device = gates_tensor(gates, engine.base.device)
        passes = list(forced(engine.model, layout, prompt, text, on_device, listen, route))
        return Rows(
            torch.cat([each.first for each in passes]).cpu().numpy(),
            torch.cat([each.log_probs for each in passes]).cpu().numpy(),
            [each.ear for each in passes],
        )

    return read


def _heard(ears: list[Outputs], rows: int, layers: int, count: int) -> Heard:
    """All passes' rows together; NaN where no adapter takes part that could be heard."""
    if not ears:
        pair = np.full((rows, layers, count, count), np.nan)
        return Heard(pair, pair, np.full((rows, layers, count), np.nan))
    return Heard(*(np.concatenate(parts) for parts in zip(*(ear.heard() for ear in ears), strict=True)))
