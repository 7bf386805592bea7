"""The whole measurement of one base with one set of adapters: losses and shares, passage by passage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from composer.analysis.norm_correlation import layer_norms
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.engine.engine import Engine
from composer.engine.resolve import ResolvedComposition
from composer.study.domains.losses import Candidate, mean_losses
from composer.study.domains.passages import Passage
from composer.study.domains.queries import QueryReader
from composer.study.domains.settings import TESTED, fitting


@dataclass(frozen=True, eq=False)
class DomainMeasurement:
    """What was measured on P passages of N domains, whose adapters are `names`. Losses are nats a token."""

    names: tuple[str, ...]
    # Each passage's domain, an index of `names`, [P].
    owners: np.ndarray
    # The mean next-token loss under the base, [P].
    base: np.ndarray
    # Under each adapter alone, [P, N].
    alone: np.ndarray
    # Setting -> under all adapters composed, [P].
    composed: Mapping[str, np.ndarray]
    # Setting -> under its mean gates over all queries, and under the gates of a query of another domain, [P].
    blind: Mapping[str, np.ndarray]
    permuted: Mapping[str, np.ndarray]
    # Measure -> each adapter's share of every layer, read of the query, [P, L, N]; see queries.MEASURES.
    shares: Mapping[str, np.ndarray]
    # Frobenius norm of each adapter's change in each layer, [L, N].
    norms: np.ndarray
    # Label -> why a setting could not be computed here.
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def right(self) -> np.ndarray:
        """[P]: the loss under the passage's own domain's adapter alone."""
        return np.take_along_axis(self.alone, self.owners[:, None], axis=1)[:, 0]


def measure(
    engine: Engine,
    passages: Sequence[Passage],
    progress: Callable[[str, int], None] = lambda step, count: None,
) -> DomainMeasurement:
    """Losses and shares on passages of two domains or more, the same number of each, in the domains' order.

    The adapters are those that the passages' domains name. Deterministic: nothing is sampled. progress:
    receives "queries" or "passages" and how many were done since its last call. Raises ComposerError for an
    adapter that is not loaded, and where logits are not finite.
    """
    names = tuple(dict.fromkeys(passage.domain for passage in passages))
    reader = QueryReader(engine, names)
    settings, left_out = _usable(engine, reader, names, passages[0].query_ids)
    gates: dict[str, list[np.ndarray]] = {name: [] for name in settings}
    shares: dict[str, list[np.ndarray]] = {}
    for passage in passages:
        for name, resolved in settings.items():
            gates[name].append(reader.gates(resolved, passage.query_ids))
        for measure_name, share in reader.shares(passage.query_ids).items():
            shares.setdefault(measure_name, []).append(share)
        progress("queries", 1)

    others = _others(passages, names)
    tested = [name for name in TESTED if name in settings]
    blind = {name: np.mean(gates[name], axis=0) for name in tested}
    plain = [
        reader.gates(engine.resolve(Composition(weights=dict.fromkeys(own, 1.0)), among=names), (0,))
        for own in ((), *((name,) for name in names))
    ]
    columns = len(engine.snapshot.bank.names)
    routers = {name: resolved.router(columns) for name, resolved in settings.items()}
    candidates = [
        [
            *map(Candidate, plain),
            *(Candidate(gates[name][place], routers[name]) for name in settings),
            *(Candidate(blind[name]) for name in tested),
            *(Candidate(gates[name][others[place]]) for name in tested),
        ]
        for place in range(len(passages))
    ]
    found = mean_losses(engine, passages, candidates, lambda count: progress("passages", count))  # [P, C]
    ends = np.cumsum([1, len(names), len(settings), len(tested)])
    base, alone, composed, unlike, swapped = np.split(found, ends, axis=1)
    return DomainMeasurement(
        names,
        np.array([names.index(passage.domain) for passage in passages]),
        base[:, 0],
        alone,
        dict(zip(settings, composed.T, strict=True)),
        dict(zip(tested, unlike.T, strict=True)),
        dict(zip(tested, swapped.T, strict=True)),
        {name: np.stack(each) for name, each in shares.items()},
        layer_norms(engine.snapshot.bank.norms, names, engine.model.layer_of, engine.model.layers),
        left_out,
    )


def _usable(
    engine: Engine, reader: QueryReader, names: Sequence[str], ids: Sequence[int]
) -> tuple[dict[str, ResolvedComposition], dict[str, str]]:
    """The settings that these adapters can be composed by, and why the others cannot."""
    usable, left_out = {}, {}
    for setting in fitting(names, [group.members for group in engine.attributes]):
        resolved = engine.resolve(setting.composition(names), among=names)
        try:
            reader.gates(resolved, ids)
        except ComposerError as fault:
            left_out[setting.label] = str(fault)
        else:
            usable[setting.name] = resolved
    return usable, left_out


def _others(passages: Sequence[Passage], names: Sequence[str]) -> list[int]:
    """For each passage one of another domain, every other domain in turn; no passage serves two."""
    count = len(passages) // len(names)
    expected = [name for name in names for _ in range(count)]
    if [passage.domain for passage in passages] != expected or len(names) < 2:
        raise ValueError("equally many passages of each of two domains or more are needed, domain by domain")
    return [
        (domain + 1 + place % (len(names) - 1)) % len(names) * count + place
        for domain in range(len(names))
        for place in range(count)
    ]
