"""What a method is: a rule that turns a composition into gates, with the words that explain it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from composer.spec import Composition


@dataclass(frozen=True)
class Question:
    """Everything a rule may look at.

    weights: [N]. groups: index sets of adapters that are opposites of each other. kl: [L, N] nats, the
    prompt's divergences, given to methods that need them.
    """

    weights: np.ndarray
    layers: int
    groups: tuple[tuple[int, ...], ...]
    composition: Composition
    kl: np.ndarray | None = None


@dataclass(frozen=True)
class Method:
    """name: key in METHODS. help: one line for the page. source: where the formula is from. dials: the
    fields of Composition it listens to beside weights, strength and bands. rule: Question -> gates [L, N].
    """

    name: str
    label: str
    help: str
    source: str
    rule: Callable[[Question], np.ndarray]
    dials: tuple[str, ...] = ()
    needs_kl: bool = False


def band_profile(bands: tuple[float, float, float], layers: int) -> np.ndarray:
    """[L] multiplier per layer: the first, second and last third of the layers take one number each."""
    return np.array([bands[min(3 * layer // layers, 2)] for layer in range(layers)])


def gates(method: Method, question: Question) -> np.ndarray:
    """[L, N] float32 gates: the method's rule times strength times the layer bands."""
    composition = question.composition
    profile = composition.strength * band_profile(composition.bands, question.layers)  # [L]
    return (profile[:, None] * method.rule(question)).astype(np.float32)
