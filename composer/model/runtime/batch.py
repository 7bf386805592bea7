"""Continuous batching (Orca, Yu et al. 2022): rows are added and removed between two passes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from composer.core.composition import Sampling
from composer.core.errors import ComposerError
from composer.model.gated_model import gates_tensor
from composer.model.in_use import in_use
from composer.model.logit_combiner import LogitCombiner
from composer.model.logit_mixture import LogitMixture
from composer.model.rank_layout import GateTelemetry, Layout
from composer.model.runtime.finite import OVERFLOW
from composer.model.runtime.kv_cache import cache_for
from composer.model.runtime.prefill import PrefillOutput
from composer.model.runtime.runner import Inputs, ModelRunner
from composer.model.runtime.sampling import NO_TOKEN, BatchSampler, RowSampler
from composer.model.runtime.token_routing import RouterConfig
from composer.model.transfer import HostCopy, to_device

log = logging.getLogger(__name__)

# Attention covers a multiple of so many positions, so that few shapes occur.
ATTENTION_BUCKET = 64


@dataclass(eq=False)
class BatchRow:
    """One generation in progress."""

    # The caller's name for it.
    key: Hashable
    # Prompt and sampled tokens.
    ids: list[int]
    mixture: LogitMixture
    sampling: Sampling
    # New gates from the tokens so far, with as many branches as before. What was read under the old gates
    # keeps them.
    refresh_gates: Callable[[Sequence[int]], LogitMixture] | None = None
    # Refresh the gates after so many sampled tokens; 0: never.
    refresh_every: int = 0
    # How its tokens weight the adapters themselves; None: they do not.
    router: RouterConfig | None = None
    # Refresh the gates also after these numbers of sampled tokens.
    refresh_after: frozenset[int] = frozenset()
    sampler: RowSampler = field(init=False)
    # When it was added to its first batch, by the monotonic clock.
    began: float = field(init=False, default=0.0)
    count: int = 0

    def __post_init__(self) -> None:
        self.resume()

    def resume(self) -> None:
        """Get ready to join another batch where it stands: the tokens so far are its prompt there, read under
        its present gates."""
        self.sampler = RowSampler(self.sampling)
        self.sampler.skip(self.count)

    @property
    def refresh_due(self) -> bool:
        """Whether its gates are refreshed before the next token."""
        return self.refreshed_after(self.count)

    @property
    def goes_on(self) -> bool:
        """Whether the host has nothing to decide between the next token and the one after it.

        An end token or the time limit may still end the row with the next one.
        """
        after = self.count + 1
        return after < self.sampling.max_new_tokens and not self.refreshed_after(after)

    def refreshed_after(self, count: int) -> bool:
        """Whether its gates are refreshed after so many sampled tokens."""
        regular = self.refresh_every > 0 and count % self.refresh_every == 0
        return regular or count in self.refresh_after


@dataclass(frozen=True)
class SampledToken:
    """A token of one row."""

    row: BatchRow
    token: int
    # Why the row ended with it, else None.
    finish: str | None
    # Since the row was added.
    seconds: float
    # The rows of the pass's readings that are this row's branches, in their order.
    slots: Sequence[int]


@dataclass(frozen=True)
class Failed:
    """A row that failed, by its key, and why. It was removed; the other rows are not affected."""

    row: Hashable
    fault: Exception


# What a slot holds: a row, and which of its branches.
SlotEntry = tuple[BatchRow, int]
# What the host gets of a pass's telemetry, a tensor of P rows or of one for all.
Readings = Callable[[GateTelemetry | None], torch.Tensor]


@dataclass(frozen=True)
class _Launched:
    """A pass that was started, with its tokens and readings on their way to the host."""

    rows: Sequence[BatchRow]
    # Each row's.
    slots: Sequence[Sequence[int]]
    tokens: torch.Tensor  # [B]
    copy: HostCopy
    positions: torch.Tensor | None = None  # [P]; None after a prefill


class Batch:
    """Rows of at most `max_seq_len` tokens, with up to `slots` branches in all. The first slots are in use.

    A row's tokens do not depend on the other rows (up to rounding): it has its own gates, random numbers,
    position and end. A row whose logits are not finite, or whose gates cannot be refreshed, is removed as
    Failed, and the others go on.

    pipelined: a pass is started before the host has seen the tokens of the one before it, as long as the same
    rows go on under the same gates; what a row gets after its end is dropped. None: on a GPU only.
    """

    def __init__(
        self,
        runner: ModelRunner,
        layout: Layout,
        ends: Collection[int],
        slots: int,
        max_seq_len: int,
        pipelined: bool | None = None,
    ):
        self.layout = layout
        self._runner, self._ends = runner, ends
        on_gpu = layout.adapter_index.device.type == "cuda"
        self._pipelined = on_gpu if pipelined is None else pipelined
        self._readings: Readings | None = None
        # The pass ahead of the host, and what samples the present rows.
        self._launched: _Launched | None = None
        self._sampler: BatchSampler | None = None
        self._cache = cache_for(runner, slots, max_seq_len)
        self._entries = list[SlotEntry]()
        self._changed = True

    @property
    def rows(self) -> list[BatchRow]:
        """The running rows, in the order of their first branches' slots."""
        return [row for row, branch in self._entries if branch == 0]

    def add(
        self, rows: Sequence[BatchRow], layout: Layout, readings: Readings | None = None
    ) -> tuple[list[SampledToken | Failed], np.ndarray | None]:
        """Read the prompts of new rows in one pass and sample each one's first token.

        rows: with no more branches than free slots. layout: of the newest bank; its columns begin with those
        of the one before; running rows keep their gates. readings: of passes under this layout, this one's of
        the new rows' branches, in order. Without it there are none.
        """
        self.layout, self._readings = layout, readings
        for row in rows:
            row.began = row.began or time.monotonic()
        entries = [(row, branch) for row in rows for branch in range(len(row.mixture))]
        active, gates, routes = self._in_use(entries)
        read = self._runner.read(active, gates, [row.ids for row, _ in entries], routes=routes)
        combiner = LogitCombiner([row.mixture for row in rows], layout.adapter_index.device)
        self._write(entries, read)
        tokens = self._sampler_of(rows)(combiner(read.logits))
        return self._collect(_Launched(rows, _slots_of(entries), tokens, self._copy(tokens, read.telemetry)))

    def step(self) -> tuple[list[SampledToken | Failed], np.ndarray | None]:
        """One more token for every row, and the pass's readings. Rows that ended stay until they are removed.

        Rows that were added while a pass was ahead of the host get theirs with the next one.
        """
        failed, launched = [], self._launched
        if launched is None:
            failed = self._refresh()
            if not self._entries:
                return failed, None
            launched = self._launch()
        goes_on = self._pipelined and not self._changed and all(row.goes_on for row in launched.rows)
        self._launched = self._launch(launched) if goes_on else None
        outcomes, readings = self._collect(launched)
        return failed + outcomes, readings

    def remove(self, keys: Collection[Hashable]) -> None:
        """Remove rows. The last branches move into their slots. Unknown keys are ignored."""
        for place in reversed(range(len(self._entries))):
            gone = self._entries[place][0]
            if gone.key in keys:
                last = self._entries.pop()
                length = len(last[0].ids)
                if place < len(self._entries):
                    self._entries[place] = last
                    self._cache.move(len(self._entries), place, length)
                    self._cache.clear(place, length, len(gone.ids) + 1)
                # A pass ahead of the host may have written one more position for a row that failed.
                self._cache.clear(len(self._entries), 0, length + 1)
                self._changed, self._sampler = True, None
        if self._launched is not None and not {*self._launched.rows} & {*self.rows}:
            self._launched = None

    def _refresh(self) -> list[SampledToken | Failed]:
        """Refresh the gates of rows that are due. Rows whose gates could not be computed are removed."""
        failed: list[SampledToken | Failed] = []
        for row in self.rows:
            if row.refresh_due:
                try:
                    row.mixture = row.refresh_gates(row.ids)
                except Exception as fault:  # it concerns this row alone
                    log.exception("the gates of a row could not be refreshed")
                    failed.append(Failed(row.key, fault))
                self._changed = True
        self._drop(failed)
        return failed

    def _drop(self, outcomes: Sequence[SampledToken | Failed]) -> None:
        self.remove([each.row for each in outcomes if isinstance(each, Failed)])

    def _write(self, entries: Sequence[SlotEntry], read: PrefillOutput) -> None:
        """Write the prompts' keys and values into the next slots. A failed write leaves nothing behind."""
        first = len(self._entries)
        try:
            for place, (row, _) in enumerate(entries):
                self._cache.write(first + place, len(row.ids), read, place)
        except BaseException:
            for place, (row, _) in enumerate(entries):
                self._cache.clear(first + place, 0, len(row.ids))
            raise
        self._entries += entries
        self._changed, self._sampler = True, None

    def _prepare(self) -> None:
        """Compute what depends on the rows, their slots and their gates."""
        rows = self.rows
        self._plan = self._runner.prepare(*self._in_use(self._entries))
        self._slots_of = _slots_of(self._entries)
        order = [place for own in self._slots_of for place in own]
        device = self.layout.adapter_index.device
        owner = sorted((place, row) for row, own in enumerate(self._slots_of) for place in own)
        self._row_of = to_device(torch.tensor([row for _, row in owner]), device)  # [P]
        self._combiner = LogitCombiner([row.mixture for row in rows], device, order)
        self._sampler = self._sampler or self._sampler_of(rows)

    def _launch(self, before: _Launched | None = None) -> _Launched:
        """Start the pass of every row's next token; after `before`, whose tokens the host has not seen."""
        if self._changed:
            self._prepare()
            self._changed = False
        assert self._sampler is not None  # _prepare made it
        device, rows = self.layout.adapter_index.device, self.rows
        lengths = [len(row.ids) + (before is not None) for row, _ in self._entries]
        if before is None or before.positions is None:
            tokens = to_device(torch.tensor([row.ids[-1] for row, _ in self._entries]), device)
            positions = to_device(torch.tensor([length - 1 for length in lengths]), device)
        else:
            # A row without a token has failed, and goes before anybody looks at what it gets for token 0.
            tokens, positions = before.tokens.clamp_min(0), before.positions + 1
            if len(tokens) < len(positions):
                tokens = tokens[self._row_of]
        longest = min(-(-max(lengths) // ATTENTION_BUCKET) * ATTENTION_BUCKET, self._cache.max_seq_len)
        logits, telemetry = self._runner(self._plan, Inputs(tokens, positions, longest), self._cache)
        drawn = self._sampler(self._combiner(logits))
        return _Launched(rows, self._slots_of, drawn, self._copy(drawn, telemetry), positions)

    def _sampler_of(self, rows: Sequence[BatchRow]) -> BatchSampler:
        return BatchSampler(
            [row.sampler for row in rows], [row.ids for row in rows], self.layout.adapter_index.device
        )

    def _copy(self, tokens: torch.Tensor, telemetry: GateTelemetry | None) -> HostCopy:
        return HostCopy([tokens] if self._readings is None else [tokens, self._readings(telemetry)])

    def _collect(self, launched: _Launched) -> tuple[list[SampledToken | Failed], np.ndarray | None]:
        """What a pass said about the rows that are still there."""
        tokens, *readings = launched.copy()
        now, here = time.monotonic(), {*self.rows}
        outcomes: list[SampledToken | Failed] = []
        for row, token, own in zip(launched.rows, tokens.tolist(), launched.slots, strict=True):
            if row not in here:
                continue
            if token == NO_TOKEN:
                outcomes.append(Failed(row.key, ComposerError(OVERFLOW)))
                continue
            row.ids.append(token)
            row.count += 1
            seconds = now - row.began
            outcomes.append(SampledToken(row, token, self._finish(row, seconds), seconds, own))
        self._drop(outcomes)
        return outcomes, readings[0].numpy() if readings else None

    def _finish(self, row: BatchRow, seconds: float) -> str | None:
        if row.ids[-1] in self._ends:
            return "end"
        if row.count >= row.sampling.max_new_tokens:
            return "length"
        return "time" if seconds >= row.sampling.time_limit else None

    def _in_use(
        self, entries: Sequence[SlotEntry]
    ) -> tuple[Layout, torch.Tensor, Sequence[RouterConfig | None]]:
        """The layout of the adapters that these branches use, their gates [P, L, n], and their routes."""
        gates = [row.mixture.gates[branch] for row, branch in entries]
        active, own, routes = in_use(self.layout, gates, [row.router for row, _ in entries])
        return active, gates_tensor(own, self.layout.adapter_index.device), routes


def _slots_of(entries: Sequence[SlotEntry]) -> list[list[int]]:
    """Each row's slots in the order of its branches; rows in the order of their first slots."""
    found = {id(row): [0] * len(row.mixture) for row, branch in entries if branch == 0}
    for place, (row, branch) in enumerate(entries):
        found[id(row)][branch] = place
    return list(found.values())
