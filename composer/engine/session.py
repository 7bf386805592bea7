"""A decoding session: one batch, each row's text so far, and the contributions of its adapters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from composer.core.errors import ComposerError
from composer.core.results import Step
from composer.engine.adapter_snapshot import AdapterSnapshot
from composer.engine.resolve import ResolvedComposition
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.batch import Batch, BatchRow, Failed, SampledToken
from composer.model.tokens import Continuation

log = logging.getLogger(__name__)


@dataclass(eq=False)
class SessionRow(BatchRow):
    """A row of a session. It holds its resolved composition, and with it the leases of merged adapters."""

    resolved: ResolvedComposition = field(kw_only=True)
    # The last so many of its first ids are continuation that was there before.
    written: int = field(default=0, kw_only=True)
    # Tokens that were told and are sampled once more, the next one first.
    told: list[int] = field(init=False, default_factory=list)
    # The gates that it began with.
    first: LogitMixture = field(init=False)

    def __post_init__(self) -> None:
        self.first = self.mixture
        super().__post_init__()

    def resume(self) -> None:
        start = len(self.ids) - self.count
        told = [*self.ids[start:], *self.told]
        if any(self.refreshed_after(count) for count in range(1, len(told) + 1)):
            # Read as a prompt, all of it would be read under today's gates, and go on otherwise.
            del self.ids[start:]
            self.count, self.told, self.mixture = 0, told, self.first
        super().resume()
        self.sampler.skip(self.written)

    def continuation(self, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> Continuation:
        """The decoder of its text, with what was written before."""
        start = len(self.ids) - self.written - self.count
        text = Continuation(tokenizer, self.ids[:start], ends)
        for token in self.ids[start:]:
            text.push(token, last=False)
        return text


def check_slots(row: BatchRow, slots: int) -> None:
    """Raise ComposerError for a row that needs more slots than the whole batch has."""
    if len(row.mixture) > slots:
        raise ComposerError(
            f"This composition runs the base {len(row.mixture)} times at once and there is room for {slots}; "
            "set fewer adapters to a weight, or choose a method that adds outputs, such as sum."
        )


class DecodeSession:
    """Turns the tokens of a batch into Steps; Step.row is the row's key. Rows are added and removed between
    two passes.

    newest: returns the current adapter snapshot. Every row runs under it; see composer.engine.adapter_pool.
    """

    def __init__(
        self,
        batch: Batch,
        newest: Callable[[], AdapterSnapshot],
        tokenizer: PreTrainedTokenizerBase,
        end_tokens: frozenset[int],
    ):
        self._batch, self._newest, self._tokenizer, self._ends = batch, newest, tokenizer, end_tokens
        self._snapshot = newest()
        self._rows: dict[Hashable, tuple[SessionRow, Continuation]] = {}

    @property
    def keys(self) -> list[Hashable]:
        """The rows that are still running."""
        return [row.key for row in self._batch.rows]

    def add(self, rows: Sequence[SessionRow]) -> list[Step | Failed]:
        """Read the rows' prompts in one pass and return their first tokens."""
        self._snapshot = self._newest()
        self._rows |= {row.key: (row, row.continuation(self._tokenizer, self._ends)) for row in rows}
        return self._steps(*self._batch.add(rows, self._snapshot.layout, self._snapshot.contribution))

    def step(self) -> list[Step | Failed]:
        """One more token of every row. Rows that end with it are removed."""
        return self._steps(*self._batch.step())

    def remove(self, keys: Collection[Hashable]) -> None:
        """Remove rows before their end."""
        self._batch.remove(keys)
        for key in keys:
            self._rows.pop(key, None)

    def _steps(self, outcomes: list[SampledToken | Failed], shares: np.ndarray | None) -> list[Step | Failed]:
        """shares: [P, L, N], or P = 1 where all are 0; None without any outcome but Failed."""
        slots = [slot for each in outcomes if isinstance(each, SampledToken) for slot in each.slots]
        if shares is not None:
            rows = max(len(shares), 1 + max(slots, default=0))
            shares = np.broadcast_to(shares, (rows, *shares.shape[1:]))
        made = [each if isinstance(each, Failed) else self._step(each, shares) for each in outcomes]
        steps = [each for each in made if each is not None]
        self.remove([step.row for step in steps if isinstance(step, Failed) or step.finish])
        return steps

    def _step(self, sampled: SampledToken, shares: np.ndarray | None) -> Step | Failed | None:
        """None for a token that was told before."""
        assert shares is not None  # a pass that sampled a token has readings
        row, text = self._rows[sampled.row.key]
        try:
            piece = text.push(sampled.token, last=sampled.finish is not None)
        except Exception as fault:  # the tokenizer's; only this row ends
            log.exception("the tokens of a row could not be decoded to text")
            return Failed(row.key, fault)
        if row.told:
            if row.told.pop(0) != sampled.token:
                return Failed(row.key, RuntimeError("a token that was told came out otherwise"))
            if sampled.finish is None:
                return None
        own = row.mixture.together(shares[sampled.slots])  # [L, columns]
        return Step(
            row=row.key,
            index=row.written + row.count - 1,
            token=sampled.token,
            piece=piece,
            text=text.text,
            contribution=own[:, row.resolved.columns],
            seconds=sampled.seconds,
            finish=sampled.finish,
        )
