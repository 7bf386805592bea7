"""A batch that rows join and leave between passes (continuous batching, Yu et al. 2022, Orca)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from composer.model.inject import gates_tensor
from composer.model.kv import KVCache
from composer.model.layout import Layout, Reading
from composer.model.route import Route
from composer.model.sample import Stream, draw
from composer.model.step import Inputs, Pass
from composer.spec import Sampling

# Attention looks at this many places or a multiple, so that few shapes occur.
REACH = 64


@dataclass
class Row:
    """One generation under way. key: the caller's name for it. ids: prompt and drawn tokens.

    gates: [L, N]. regate: new gates from the ids so far, asked for after every `every` drawn tokens (0:
    never). What was read under the old gates stays as it was read. route: how its tokens share out the gates;
    None: they do not. began: when it joined its batch, by the monotonic clock.
    """

    key: Hashable
    ids: list[int]
    gates: np.ndarray
    sampling: Sampling
    regate: Callable[[Sequence[int]], np.ndarray] | None = None
    every: int = 0
    route: Route | None = None
    stream: Stream = field(init=False)
    began: float = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.stream = Stream(self.sampling)


@dataclass(frozen=True)
class Drawn:
    """A token of one row. finish: why the row ended with it, else None. seconds: of the row's life."""

    row: Row
    token: int
    finish: str | None
    seconds: float


class Batch:
    """Up to `slots` rows of at most `room` tokens; the first len(rows) slots are the rows', in order.

    A row's tokens do not depend on its company (up to rounding): it has its own gates, random numbers,
    position and end.
    """

    def __init__(self, model: Pass, layout: Layout, ends: Collection[int], slots: int, room: int):
        self.layout, self.rows = layout, list[Row]()
        self._pass, self._ends = model, ends
        self._cache = KVCache(slots, room)
        self._changed = True

    def join(self, rows: Sequence[Row], layout: Layout) -> tuple[list[Drawn], Reading | None]:
        """Read new rows' prompts together and draw each one's first token; at most as many as slots are left.

        layout: where it is of a newer bank, adapters came in as last columns, and the rows under way go on as
        they were. The reading has the new rows, in their order.
        """
        self.layout = layout
        for row in rows:
            row.began = time.monotonic()
        ids, routes = [row.ids for row in rows], [row.route for row in rows]
        read = self._pass.read(layout, self._gates(rows), ids, routes=routes)
        for slot, row in enumerate(rows, start=len(self.rows)):
            self._cache.write(slot, len(row.ids), read, slot - len(self.rows))
        self.rows += rows
        self._changed = True
        return self._push(rows, read.logits), read.reading

    def step(self) -> tuple[list[Drawn], Reading | None]:
        """One more token for every row. Rows that ended stay until they are told to `leave`."""
        device = self.layout.owner.device
        for row in self.rows:
            if row.every and row.count % row.every == 0:
                row.gates = row.regate(row.ids)
                self._changed = True
        if self._changed:
            routes = [row.route for row in self.rows]
            self._under = self._pass.prepare(self.layout, self._gates(self.rows), routes)
            self._changed = False
        lengths = [len(row.ids) for row in self.rows]
        inputs = Inputs(
            torch.tensor([row.ids[-1] for row in self.rows], device=device),
            torch.tensor([length - 1 for length in lengths], device=device),
            min(-(-max(lengths) // REACH) * REACH, self._cache.room),
        )
        logits, reading = self._pass(self._under, inputs, self._cache)
        return self._push(self.rows, logits), reading

    def leave(self, keys: Collection[Hashable]) -> None:
        """Take rows out; the last rows move into their slots. Keys that are not here are no fault."""
        for place in reversed(range(len(self.rows))):
            if self.rows[place].key in keys:
                last = self.rows.pop()
                if place < len(self.rows):
                    self.rows[place] = last
                    self._cache.move(len(self.rows), place, len(last.ids))
                self._changed = True

    def _push(self, rows: Sequence[Row], logits: torch.Tensor) -> list[Drawn]:
        tokens = draw([row.stream for row in rows], [row.ids for row in rows], logits)
        now = time.monotonic()
        drawn = []
        for row, token in zip(rows, tokens, strict=True):
            row.ids.append(token)
            row.count += 1
            seconds = now - row.began
            drawn.append(Drawn(row, token, self._finish(row, seconds), seconds))
        return drawn

    def _finish(self, row: Row, seconds: float) -> str | None:
        if row.ids[-1] in self._ends:
            return "end"
        if row.count >= row.sampling.max_new_tokens:
            return "length"
        return "time" if seconds >= row.sampling.time_limit else None

    def _gates(self, rows: Sequence[Row]) -> torch.Tensor:
        """[B, L, N]; a row that began before the newest adapters came has gate 0 for them."""
        count = len(self.layout.bank.names)
        padded = [np.pad(row.gates, ((0, 0), (0, count - row.gates.shape[1]))) for row in rows]
        return gates_tensor(padded, self.layout.owner.device)
