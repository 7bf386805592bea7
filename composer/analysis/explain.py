"""A few batched passes over one prompt and one text, and every measurement of insight made from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from composer.adapters.bank import AdapterBank
from composer.analysis.additivity import additivity_by_token
from composer.analysis.branches import active_lanes, with_part
from composer.analysis.explanation import Explanation
from composer.analysis.layer_ablation import LayerAblation, divergence, leave_out
from composer.analysis.output_conflict import OutputGram, OutputGramObserver, apply_gate_sign, leakage
from composer.analysis.shadow_adapters import subset_bank, with_shadow_adapters
from composer.analysis.subspace_overlap import compare_subspaces
from composer.analysis.token_attribution import Attribution
from composer.analysis.weight_deltas import compare_deltas
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.engine.engine import AnyComposition, Engine
from composer.engine.execution import Executor, run_inline
from composer.methods.base import band_profile
from composer.model.logit_mixture import LogitMixture
from composer.model.rank_layout import Layout
from composer.model.runtime.teacher_forcing import SiteObserver, forced
from composer.model.runtime.token_routing import RouterConfig
from composer.model.tokens import Continuation
from composer.model.weight_norms import weight_norms

# Longest text in tokens: each costs a vocabulary of logits for every branch.
LONGEST = 512


# Tokens of the text at which additivity is measured: each takes the vocabulary's logits of every branch.
LONGEST_ADDITIVITY = 64
# Tells what is being computed now.
Tell = Callable[[str], None]


class Rows(NamedTuple):
    """The results of B teacher-forced rows."""

    # Logits of the first tokens of the text, [B, T', V]; only the first one where no more were asked for.
    logits: np.ndarray
    log_probs: np.ndarray  # [B, T], of the text
    # One per pass.
    observers: list[SiteObserver | None]


class Text(NamedTuple):
    """A continuation's tokens, and each one as it is shown."""

    tokens: tuple[int, ...]
    pieces: tuple[str, ...]


def explain(
    engine: Engine,
    prompt: str,
    composition: AnyComposition = Composition(),
    sampling: Sampling = Sampling(temperature=0),
    text: str | Sequence[int] | None = None,
    execute: Executor = run_inline,
    tell: Tell = lambda stage: None,
    weights: bool = True,
) -> Explanation:
    """Measure what a composition does to this prompt and its continuation.

    text: the continuation, or its tokens; None: generated under the composition and `sampling`. execute: runs
    each of many pieces of work. tell: is told of each stage. weights: also compare the adapters' weights,
    whatever the prompt. Raises ComposerError for a prompt, a text or a composition that cannot be used.
    """
    if sampling.max_new_tokens > LONGEST and text is None:
        raise ComposerError(f"At most {LONGEST} tokens can be explained; ask for fewer new tokens.")
    asked = composition if isinstance(composition, Composition) else composition.composition
    if asked.schedule:
        raise ComposerError("What is explained has the same weights throughout; leave the schedule out.")
    row = execute(lambda: engine.row(0, prompt, composition, sampling))
    part = active_lanes(row.resolved, row.mixture.gates)
    columns = row.resolved.columns[part].tolist()
    own = LogitMixture(row.mixture.mix, row.mixture.gates[:, :, columns])  # gates [K, L, n]
    if text is None:
        tell("Writing the text")
        said = execute(lambda: _generated(engine, prompt, composition, sampling))
    else:
        said = _tokenized(engine, row.ids, text) if isinstance(text, str) else _shown(engine, row.ids, text)

    layer_of, layers, count = engine.model.layer_of, engine.model.layers, len(columns)
    bank = subset_bank(engine.snapshot.bank, columns)
    # An adapter alone keeps the share that it has among the active ones. Shadow copies have none.
    route = row.router and replace(row.router, part=row.router.part[columns])
    read = _reader(engine, row.ids, said.tokens, route, execute)
    # Rows: the base, each adapter alone, the composition. Their shadow copies record at gate 1.
    alone = [with_part(own, part) for part in np.eye(count)]
    rows = [with_part(own, np.zeros(count)), *alone, own]
    shadowed = [replace(each, gates=_with_shadows(each.gates)) for each in rows]
    tell("Reading the text under the base, each adapter alone and the mix")
    whole = read(
        with_shadow_adapters(bank),
        shadowed,
        lambda: OutputGramObserver(bank, layer_of, layers, len(row.ids)),
        LONGEST_ADDITIVITY,
    )
    gram = _joined_grams(whole.observers if bank.sites else [], sum(map(len, rows)), layers, count)
    gates, own_gram = own.overall, gram if len(own) == 1 else _empty_gram(1, layers, count)

    keeps = leave_out(np.ones((layers, count), np.float32), band_profile((0, 1, 2), layers))
    composed, shape = whole.log_probs[-1], keeps.shape[:2]  # keeps [3, n + 1, L, n]
    tell("Reading it without a third of the layers")
    without = read(bank, [with_part(own, each) for band in keeps for each in band])
    additivity = np.full(len(said.tokens), np.nan)
    measured = additivity_by_token(whole.logits[0], whole.logits[1:-1], whole.logits[-1])
    additivity[: len(measured)] = measured
    deltas = subspaces = None
    if weights:
        tell("Comparing the adapters' weights")
        norms = execute(lambda: weight_norms(engine.model, bank.sites))
        deltas = execute(lambda: compare_deltas(bank, layer_of, layers, norms))
        subspaces = execute(lambda: compare_subspaces(bank, layer_of, layers))

    return Explanation(
        base=engine.base.id,
        prompt=prompt,
        text="".join(said.pieces),
        composition=asked,
        adapters=tuple(row.resolved.lanes[place] for place in part),
        layers=layers,
        tokens=said.tokens,
        pieces=said.pieces,
        gates=gates,
        conflict_last=apply_gate_sign(own_gram.last[-1], gates),
        conflict_mean=apply_gate_sign(own_gram.mean[-1], gates),
        deltas=deltas,
        subspaces=subspaces,
        leakage=leakage(gram.size[_first_active_branch(rows)[1:-1]]),
        outputs=own_gram.size[-1] * np.abs(gates),
        additivity_by_token=additivity,
        attribution=Attribution(whole.log_probs[0], whole.log_probs[1:-1], composed),
        bands=LayerAblation(
            change=(without.log_probs - composed).mean(axis=1).reshape(shape),
            kl=divergence(whole.logits[-1, 0], without.logits[:, 0]).reshape(shape),
        ),
        notes=row.resolved.notes,
    )


def _with_shadows(gates: np.ndarray) -> np.ndarray:
    """[K, L, n] -> [K, L, 2n], with gates of 1 for the shadow copies."""
    return np.concatenate([gates, np.ones_like(gates)], axis=2)


def _first_active_branch(rows: Sequence[LogitMixture]) -> list[int]:
    """For each row, the index among all rows' branches of its first one that is not the bare base."""
    starts = np.cumsum([0, *map(len, rows[:-1])])
    return [
        start + int(each.gates.any(axis=(1, 2)).argmax()) for start, each in zip(starts, rows, strict=True)
    ]


def _generated(engine: Engine, prompt: str, composition: AnyComposition, sampling: Sampling) -> Text:
    steps = list(engine.generate(prompt, composition, sampling))
    return Text(tuple(step.token for step in steps), tuple(step.piece for step in steps))


def _tokenized(engine: Engine, prompt: Sequence[int], text: str) -> Text:
    """The tokens of a text somebody brings, after a prompt's tokens."""
    if not isinstance(text, str) or not text.strip():
        raise ComposerError("The text to explain is empty; leave it out to have one generated.")
    room = min(engine.base.context - len(prompt), LONGEST)
    try:
        # A flood is refused before it is tokenised: no token is more than a few dozen characters.
        tokens = engine.base.tokenizer(text[: 64 * (room + 1)], add_special_tokens=False)["input_ids"]
    except (UnicodeError, TypeError) as fault:
        raise ComposerError(
            "The text to explain has broken characters (lone surrogates); type it again as plain text."
        ) from fault
    if len(tokens) > room:
        raise ComposerError(f"The text to explain is too long; after this prompt it may have {room} tokens.")
    return _shown(engine, prompt, tokens)


def _shown(engine: Engine, prompt: Sequence[int], tokens: Sequence[int]) -> Text:
    shown = Continuation(engine.base.tokenizer, prompt, frozenset())
    tokens = tokens[:LONGEST]
    pieces = [shown.push(token, last=place == len(tokens)) for place, token in enumerate(tokens, start=1)]
    return Text(tuple(tokens), tuple(pieces))


def _reader(
    engine: Engine,
    prompt: Sequence[int],
    text: Sequence[int],
    route: RouterConfig | None,
    execute: Executor,
) -> Callable[..., Rows]:
    """A function of a bank and rows over it that reads prompt + text once per branch, a pass at a time."""

    def read(
        bank: AdapterBank,
        rows: Sequence[LogitMixture],
        observe: Callable[[], SiteObserver] | None = None,
        positions: int = 1,
    ) -> Rows:
        layout: Layout = engine.model.layout(bank)
        passes = forced(engine.model, layout, prompt, text, rows, observe, route, whole=positions > 1)
        logits, log_probs, observers = [], [], []
        while (each := execute(lambda: next(passes, None))) is not None:
            first = each.first[:, None] if each.logits is None else each.logits[:, :positions]
            logits.append(first.cpu().numpy())
            log_probs.append(each.log_probs.cpu().numpy())
            observers.append(each.observer)
        return Rows(np.concatenate(logits), np.concatenate(log_probs), observers)

    return read


def _joined_grams(observers: list[OutputGramObserver], rows: int, layers: int, count: int) -> OutputGram:
    """The grams of all passes; NaN where no adapter has a site."""
    if not observers:
        return _empty_gram(rows, layers, count)
    grams = [observer.gram() for observer in observers]
    return OutputGram(*(np.concatenate(parts) for parts in zip(*grams, strict=True)))


def _empty_gram(rows: int, layers: int, count: int) -> OutputGram:
    pair = np.full((rows, layers, count, count), np.nan)
    return OutputGram(pair, pair, np.full((rows, layers, count), np.nan))
