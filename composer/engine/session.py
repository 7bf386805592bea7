"""Generations that decode together: a batch, each row's text so far, and what its adapters contribute."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Sequence

import numpy as np

from composer.core.errors import ComposerError
from composer.core.results import Step
from composer.engine.adapter_snapshot import AdapterSnapshot
from composer.model.rank_layout import GateTelemetry
from composer.model.runtime.batch import Batch, BatchRow, Failed, SampledToken
from composer.model.tokens import Continuation

log = logging.getLogger(__name__)


def check_slots(row: BatchRow, slots: int) -> None:
    """Raise ComposerError for a row with more voices than a whole batch has slots."""
    if len(row.mixture) > slots:
        raise ComposerError(
            f"This composition runs the base {len(row.mixture)} times at once and there is room for {slots}; "
            "set fewer adapters to a weight, or choose a method that adds outputs, such as sum."
        )


class DecodeSession:
    """A batch's tokens as Steps; Step.row is the row's key. Rows join and leave between passes.

    newest: the shelf as it is now, which serves every row: see composer.engine.adapter_pool.
    """

    def __init__(self, batch: Batch, newest: Callable[[], AdapterSnapshot], tokenizer, ends: frozenset[int]):
        self._batch, self._newest, self._tokenizer, self._ends = batch, newest, tokenizer, ends
        self._snapshot = newest()
        self._texts: dict[Hashable, Continuation] = {}

    @property
    def keys(self) -> list[Hashable]:
        """The rows that are still running."""
        return [row.key for row in self._batch.rows]

    def join(self, rows: Sequence[BatchRow]) -> list[Step | Failed]:
        """Read the rows' prompts together; their first tokens. Row.cast is a Cast."""
        self._snapshot = self._newest()
        self._texts |= {row.key: Continuation(self._tokenizer, row.ids, self._ends) for row in rows}
        return self._steps(*self._batch.join(rows, self._snapshot.layout))

    def step(self) -> list[Step | Failed]:
        """One more token of every row; rows that end with it are gone afterwards."""
        return self._steps(*self._batch.step())

    def leave(self, keys: Collection[Hashable]) -> None:
        """Take rows out before their end."""
        self._batch.leave(keys)
        for key in keys:
            self._texts.pop(key, None)

    def _steps(
        self, outcomes: list[SampledToken | Failed], telemetry: GateTelemetry | None
    ) -> list[Step | Failed]:
        shares = self._snapshot.contribution(telemetry).cpu().numpy()  # [P, L, N], or P = 1 where all are 0
        places = [place for each in outcomes if isinstance(each, SampledToken) for place in each.places]
        rows = max(len(shares), 1 + max(places, default=0))
        shares = np.broadcast_to(shares, (rows, *shares.shape[1:]))
        steps: list[Step | Failed] = []
        for each in outcomes:
            if isinstance(each, Failed):
                steps.append(each)
                continue
            text, own = self._texts[each.row.key], each.row.mixture.together(shares[each.places])
            try:
                piece = text.push(each.token, last=each.finish is not None)
            except Exception as fault:  # a tokenizer's, on this row's tokens alone
                log.exception("a row's tokens could not be read back")
                steps.append(Failed(each.row.key, fault))
                continue
            steps.append(
                Step(
                    row=each.row.key,
                    index=each.row.count - 1,
                    token=each.token,
                    piece=piece,
                    text=text.text,
                    contribution=own[:, each.row.cast.columns],
                    seconds=each.seconds,
                    finish=each.finish,
                )
            )
        self.leave([step.row for step in steps if isinstance(step, Failed) or step.finish])
        return steps
