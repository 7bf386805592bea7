"""A batch that rows join and leave between passes (continuous batching, Yu et al. 2022, Orca)."""

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
from composer.model.logit_combiner import Mixer
from composer.model.logit_mixture import Voices
from composer.model.rank_layout import Layout, Reading
from composer.model.runtime.finite import OVERFLOW
from composer.model.runtime.kv_cache import KVCache
from composer.model.runtime.prefill import Read
from composer.model.runtime.runner import Inputs, Pass
from composer.model.runtime.sampling import NO_TOKEN, Stream, draw
from composer.model.runtime.token_routing import Route

log = logging.getLogger(__name__)

# Attention looks at this many places or a multiple, so that few shapes occur.
REACH = 64


@dataclass
class Row:
    """One generation under way. key: the caller's name for it. ids: prompt and drawn tokens.

    regate: new voices, as many as before, from the ids so far, asked for after every `every` drawn tokens
    (0: never). What was read under the old gates stays as it was read. route: how its tokens share out the
    gates; None: they do not. cast: the caller's, kept with the row. began: when it joined its batch, by the
    monotonic clock.
    """

    key: Hashable
    ids: list[int]
    voices: Voices
    sampling: Sampling
    regate: Callable[[Sequence[int]], Voices] | None = None
    every: int = 0
    route: Route | None = None
    cast: object = None
    stream: Stream = field(init=False)
    began: float = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.stream = Stream(self.sampling)


@dataclass(frozen=True)
class Drawn:
    """A token of one row. finish: why the row ended with it, else None. seconds: of the row's life.

    places: where the row's voices, in their order, stand in the pass's reading.
    """

    row: Row
    token: int
    finish: str | None
    seconds: float
    places: Sequence[int]


@dataclass(frozen=True)
class Failed:
    """A row that could not go on, by its key, and why. It has left; the others are not touched."""

    row: Hashable
    fault: Exception


# Who has a slot: a row, and which of its voices.
Seat = tuple[Row, int]


class Batch:
    """Rows of at most `room` tokens, with up to `slots` voices in all; the first slots are the voices'.

    A row's tokens do not depend on its company (up to rounding): it has its own gates, random numbers,
    position and end. Nor on the faults of others: a row whose numbers overflow, or whose gates cannot be made
    anew, leaves as Failed.
    """

    def __init__(self, model: Pass, layout: Layout, ends: Collection[int], slots: int, room: int):
        self.layout = layout
        self._pass, self._ends = model, ends
        self._cache = KVCache(slots, room)
        self._seats = list[Seat]()
        self._changed = True

    @property
    def rows(self) -> list[Row]:
        """The rows under way, in the order of their first voices' slots."""
        return [row for row, voice in self._seats if voice == 0]

    def join(self, rows: Sequence[Row], layout: Layout) -> tuple[list[Drawn | Failed], Reading | None]:
        """Read new rows' prompts together and draw each one's first token.

        rows: of no more voices than slots are left. layout: where it is of a newer bank, adapters came in as
        last columns, and the rows under way go on as they were. The reading has the rows' voices, in order.
        """
        self.layout = layout
        for row in rows:
            row.began = time.monotonic()
        seats = [(row, voice) for row in rows for voice in range(len(row.voices))]
        ids, routes = [row.ids for row, _ in seats], [row.route for row, _ in seats]
        read = self._pass.read(layout, self._gates(seats), ids, routes=routes)
        mixer = Mixer([row.voices for row in rows], layout.owner.device)
        self._write(seats, read)
        outcomes = self._push(rows, _places(seats), mixer(read.logits))
        self._drop(outcomes)
        return outcomes, read.reading

    def step(self) -> tuple[list[Drawn | Failed], Reading | None]:
        """One more token for every row. Rows that ended stay until they are told to `leave`."""
        failed = self._regate()
        device, rows = self.layout.owner.device, self.rows
        if not rows:
            return failed, None
        if self._changed:
            self._prepare(rows)
            self._changed = False
        lengths = [len(row.ids) for row, _ in self._seats]
        inputs = Inputs(
            torch.tensor([row.ids[-1] for row, _ in self._seats], device=device),
            torch.tensor([length - 1 for length in lengths], device=device),
            min(-(-max(lengths) // REACH) * REACH, self._cache.room),
        )
        logits, reading = self._pass(self._under, inputs, self._cache)
        outcomes = self._push(rows, self._places, self._mixer(logits))
        self._drop(outcomes)
        return failed + outcomes, reading

    def leave(self, keys: Collection[Hashable]) -> None:
        """Take rows out; the last voices move into their slots. Keys that are not here are no fault."""
        for place in reversed(range(len(self._seats))):
            gone = self._seats[place][0]
            if gone.key in keys:
                last = self._seats.pop()
                length = len(last[0].ids)
                if place < len(self._seats):
                    self._seats[place] = last
                    self._cache.move(len(self._seats), place, length)
                    self._cache.clear(place, length, len(gone.ids))
                self._cache.clear(len(self._seats), 0, length)
                self._changed = True

    def _regate(self) -> list[Drawn | Failed]:
        """Gate the rows anew whose time it is; those that could not be have left."""
        failed: list[Drawn | Failed] = []
        for row in self.rows:
            if row.every and row.count % row.every == 0:
                try:
                    row.voices = row.regate(row.ids)
                except Exception as fault:  # of what this row alone asks for
                    log.exception("a row could not be gated anew")
                    failed.append(Failed(row.key, fault))
                self._changed = True
        self._drop(failed)
        return failed

    def _drop(self, outcomes: Sequence[Drawn | Failed]) -> None:
        self.leave([each.row for each in outcomes if isinstance(each, Failed)])

    def _write(self, seats: Sequence[Seat], read: Read) -> None:
        """Give what was read of the seats' prompts the next slots; of a write that fails nothing stays."""
        first = len(self._seats)
        try:
            for place, (row, _) in enumerate(seats):
                self._cache.write(first + place, len(row.ids), read, place)
        except BaseException:
            for place, (row, _) in enumerate(seats):
                self._cache.clear(first + place, 0, len(row.ids))
            raise
        self._seats += seats
        self._changed = True

    def _prepare(self, rows: Sequence[Row]) -> None:
        """Work out what depends on who is here, where, and under which gates."""
        routes = [row.route for row, _ in self._seats]
        self._under = self._pass.prepare(self.layout, self._gates(self._seats), routes)
        self._places = _places(self._seats)
        order = [place for own in self._places for place in own]
        self._mixer = Mixer([row.voices for row in rows], self.layout.owner.device, order)

    def _push(
        self, rows: Sequence[Row], places: Sequence[Sequence[int]], logits: torch.Tensor
    ) -> list[Drawn | Failed]:
        tokens = draw([row.stream for row in rows], [row.ids for row in rows], logits)
        now = time.monotonic()
        outcomes: list[Drawn | Failed] = []
        for row, token, own in zip(rows, tokens, places, strict=True):
            if token == NO_TOKEN:
                outcomes.append(Failed(row.key, ComposerError(OVERFLOW)))
                continue
            row.ids.append(token)
            row.count += 1
            seconds = now - row.began
            outcomes.append(Drawn(row, token, self._finish(row, seconds), seconds, own))
        return outcomes

    def _finish(self, row: Row, seconds: float) -> str | None:
        if row.ids[-1] in self._ends:
            return "end"
        if row.count >= row.sampling.max_new_tokens:
            return "length"
        return "time" if seconds >= row.sampling.time_limit else None

    def _gates(self, seats: Sequence[Seat]) -> torch.Tensor:
        """[P, L, N]; a row that began before the newest adapters came has gate 0 for them."""
        count = len(self.layout.bank.names)
        own = [row.voices.gates[voice] for row, voice in seats]
        return gates_tensor(
            [np.pad(each, ((0, 0), (0, count - each.shape[1]))) for each in own], self.layout.owner.device
        )


def _places(seats: Sequence[Seat]) -> list[list[int]]:
    """Of each row, by its first voice's slot, where its voices are, in their order."""
    found = {id(row): [0] * len(row.voices) for row, voice in seats if voice == 0}
    for place, (row, voice) in enumerate(seats):
        found[id(row)][voice] = place
    return list(found.values())
