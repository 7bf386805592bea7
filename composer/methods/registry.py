"""What a method is: a rule that turns a composition into gates, with the words that explain it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from composer.spec import Composition


@dataclass(frozen=True)
class Prompted:
    """What was read of a prompt; None for what no rule asked for. An adapter's column is its own, alone.

    kl: divergence of its lens from the base's, [L, N] nats. distance: of its hidden state from the base's,
    1 - cosine, [L, N]. share: its contribution, [L, N]. pull: |y_i| at the query projection of the last
    layer on the base's own hidden state, [N].
    """

    kl: np.ndarray | None = None
    distance: np.ndarray | None = None
    share: np.ndarray | None = None
    pull: np.ndarray | None = None


@dataclass(frozen=True)
class Question:
    """Everything a rule may look at.

    weights: [N]. groups: index sets of adapters that are opposites of each other. prompt: what the method
    `needs`, 0 for adapters at weight 0.
    """

    weights: np.ndarray
    layers: int
    groups: tuple[tuple[int, ...], ...]
    composition: Composition
    prompt: Prompted = Prompted()

    @property
    def part(self) -> np.ndarray:
        """[N] bool: the adapters that take part."""
        return self.weights != 0


@dataclass(frozen=True)
class Method:
    """name: key in METHODS. help: one line for the page. source: where the formula is from. dials: the
    fields of Composition it listens to beside weights, strength and bands. needs: fields of Prompted.
    rule: Question -> gates [L, N]. routed: every token shares them out anew at every site.
    """

    name: str
    label: str
    help: str
    source: str
    rule: Callable[[Question], np.ndarray]
    dials: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    routed: bool = False

    @property
    def needs_kl(self) -> bool:
        return "kl" in self.needs


def band_profile(bands: tuple[float, float, float], layers: int) -> np.ndarray:
    """[L] multiplier per layer: the first, second and last third of the layers take one number each."""
    return np.array([bands[min(3 * layer // layers, 2)] for layer in range(layers)])


def gates(method: Method, question: Question) -> np.ndarray:
    """[L, N] float32 gates: the method's rule times strength times the layer bands."""
    composition = question.composition
    profile = composition.strength * band_profile(composition.bands, question.layers)  # [L]
    return (profile[:, None] * method.rule(question)).astype(np.float32)
