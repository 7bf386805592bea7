"""One visitor's generation from request to pictures: what to show at each moment. No widgets here."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import plotly.graph_objects as go

from composer.analysis.text_reading import TextReading
from composer.core.results import Fusion, Step
from composer.methods import fuse
from composer.ui.components import contribution_map as contribution_map
from composer.ui.components.contribution_map import Status
from composer.ui.components.plots import Series, contribution_figure, fusion_figure
from composer.ui.components.token_reading import reading_view
from composer.ui.validation import Request

# Tokens after which the judges are asked again: many visitors' texts share one event loop.
JUDGE_EVERY = 6

FINISHES: Mapping[str | None, tuple[str, str]] = {
    "length": ("done", "Done"),
    "end": ("done", "The model ended its text"),
    "time": ("done", "Time limit reached"),
    "stopped": ("stopped", "Stopped"),
    None: ("stopped", "Stopped"),
}


@dataclass
class Progress:
    """What a generation has brought so far; Stop reads it after the generator was cancelled."""

    request: Request
    # The N adapters of this run.
    names: tuple[str, ...]
    # Their legend entries, and after them the merged adapter's if the method makes one.
    adapters: Sequence[Mapping[str, str]]
    layers: int
    # Tokens that the map has room for; 0: those that were asked for.
    room: int = 0
    run: str = field(default_factory=lambda: secrets.token_hex(6))
    steps: list[Step] = field(default_factory=list)
    # The fusion weights that have been shown.
    fusion: Fusion | None = None
    # Whether the contributions have been shown.
    drawn: bool = False
    # By the visitor; nothing more is shown.
    stopped: bool = False
    # The finished text read once more, if it was.
    read: TextReading | None = None
    # What the judges say of a text.
    meters: Callable[[str], list[dict[str, object]]] = lambda text: []
    # What they said last, and of how many tokens.
    judged: tuple[int, list[dict[str, object]]] = (0, [])

    def reading(self) -> dict[str, object]:
        """The live view while the prompt is read."""
        return self._message(Status("reading", "Reading the prompt…"), fresh=0)

    def making(self) -> dict[str, object]:
        """The live view while adapters are merged."""
        words = "Preparing the adapters for this method; once for these weights, up to half a minute…"
        return self._message(Status("reading", words), fresh=0)

    def loading(self, names: Sequence[str]) -> dict[str, object]:
        """The live view while adapters that had to make room are loaded again."""
        words = f"Loading {', '.join(names)} again, which had made room for others…"
        return self._message(Status("reading", words), fresh=0)

    def waiting(self, place: int, slots: int) -> dict[str, object]:
        """The live view of a visitor in the queue; place 0: no longer in it."""
        if place == 0:
            return self.reading()
        busy = "The only slot is busy." if slots == 1 else f"All {slots} slots are busy."
        words = f"{busy} You are {_ordinal(place)} in the queue."
        return self._message(Status("waiting", words), fresh=0)

    def writing(self, burst: Sequence[Step]) -> dict[str, object]:
        """The live view after one more burst of steps."""
        self.steps.extend(burst)
        return self._message(self._status("writing", ""), fresh=len(burst))

    def fusing(self) -> dict[str, object]:
        """The live view when the text is whole and figures are still to come; every column."""
        return self._message(self._status("fusing", "Done; reading the text once more…"), fresh=None)

    def paused(self) -> dict[str, object]:
        """The live view between two steps of a text that is written token by token."""
        # Its tokens come one by one, so there is no speed to speak of.
        status = replace(self._status("paused", "Step writes the next token."), per_second=0.0, first_ms=0.0)
        return self._message(status, fresh=None)

    def finished(self) -> dict[str, object]:
        """The live view at the end, with every column; also after a cancel."""
        phase, words = FINISHES[self.steps[-1].finish if self.steps else None]
        return self._message(self._status(phase, words), fresh=None)

    def fusion_figure(self, fusion: Fusion) -> go.Figure:
        """Fusion weights among the adapters taking part, or among all when fewer than two do."""
        part = self._part()
        shared = fuse(fusion.kl, part)
        return fusion_figure(Fusion(shared.kl[:, part], shared.alpha[:, part]), self._series(part))

    def shared(self, fusion: Fusion) -> dict[str, np.ndarray]:
        """Each adapter's fusion weights [L] among those that the figure shows."""
        part = self._part()
        alpha = fuse(fusion.kl, part).alpha  # [L, N]
        return {name: alpha[:, index] for index, name in enumerate(self.names) if part[index]}

    def _part(self) -> np.ndarray:
        weights = self.request.composition.weights
        part = np.array([weights.get(name, 0.0) != 0 for name in self.names], bool)  # [N]
        if part.sum() < 2:
            part[:] = True
        return part

    def contribution_figure(self) -> go.Figure:
        """Contribution by layer and adapter over the text so far."""
        stacked = np.zeros((0, self.layers, len(self.adapters)), np.float32)
        if self.steps:
            stacked = np.stack([step.contribution for step in self.steps])  # [T, L, N]
        return contribution_figure(stacked, self._series(np.ones(len(self.adapters), bool)))

    def _series(self, part: np.ndarray) -> list[Series]:
        return [
            Series(each["label"], each["color"])
            for each, here in zip(self.adapters, part, strict=False)  # no part is the merged one's
            if here
        ]

    def _status(self, phase: str, words: str) -> Status:
        steps = self.steps
        span = steps[-1].seconds - steps[0].seconds if steps else 0.0
        return Status(
            phase=phase,
            message=words,
            tokens=len(steps),
            per_second=(len(steps) - 1) / span if span > 0 else 0.0,
            first_ms=1000 * steps[0].seconds if steps else 0.0,
            seed=self.request.sampling.seed,
        )

    def _message(self, status: Status, fresh: int | None) -> dict[str, object]:
        weights, legend = self.request.composition.weights, {each["name"]: each for each in self.adapters}
        reading = None if self.read is None else reading_view(self.read, legend, weights)
        return contribution_map.message(
            self.run,
            self.request.prompt,
            self.steps,
            [{**each, "used": bool(weights.get(each["name"]))} for each in self.adapters],
            self.layers,
            status,
            room=self.room or self.request.sampling.max_new_tokens,
            fresh=fresh,
        ) | {"reading": reading, "meters": self._meters(last=fresh is None)}

    def _meters(self, last: bool) -> list[dict[str, object]]:
        """What the judges say, asked after every few tokens and of the whole text."""
        count, said = self.judged
        if last or len(self.steps) - count >= JUDGE_EVERY:
            said = self.meters(self.request.prompt + self.text) if self.steps else []
            self.judged = (len(self.steps), said)
        return said

    @property
    def text(self) -> str:
        """The continuation so far."""
        return self.steps[-1].text if self.steps else ""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Its tokens."""
        return tuple(step.token for step in self.steps)


def _ordinal(number: int) -> str:
    """1 -> "1st", 12 -> "12th"."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
