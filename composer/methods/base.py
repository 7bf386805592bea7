"""What a method is: a rule that turns a composition into voices, with the words that explain it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from composer.core.composition import Composition
from composer.model.logit_mixture import LogitMixture


@dataclass(frozen=True)
class PromptStats:
    """What was read of a prompt; None for what no rule asked for. An adapter's column is its own, alone.

    kl: divergence of its lens from the base's, [L, N] nats. distance: of its hidden state from the base's,
    1 - cosine, [L, N]. share: its contribution, [L, N]. pull: |y_i| at the query projection of the last
    layer on the base's own hidden state, [N].
    """

    kl: np.ndarray | None = None
    distance: np.ndarray | None = None
    contribution: np.ndarray | None = None
    query_norm: np.ndarray | None = None


@dataclass(frozen=True)
class GateInputs:
    """Everything a rule may look at.

    weights: [N]. groups: index sets of adapters that are opposites of each other. prompt: what the method
    `needs`, 0 for adapters at weight 0.
    """

    weights: np.ndarray
    layers: int
    groups: tuple[tuple[int, ...], ...]
    composition: Composition
    prompt: PromptStats = PromptStats()

    @property
    def part(self) -> np.ndarray:
        """[N] bool: the adapters that take part."""
        return self.weights != 0


@dataclass(frozen=True)
class Method:
    """name: key in METHODS. family: what kind of rule it is, for lists. help: one line for the page. source:
    where the formula is from. dials: the fields of Composition it listens to beside weights, strength and
    bands. needs: fields of Prompted.
    rule: Question -> gates [L, N]; or, `apart`, each adapter's share of the logits, [1, N] for one layer: the
    base is then run with each adapter alone, beside the bare base. routed: every token shares the gates out
    anew at every site. merge: the rule of composer.methods.merging that makes one adapter of those that take
    part, for `rule` to add. calibrated: they are calibrated against each other first (Pico).
    """

    name: str
    label: str
    help: str
    source: str
    rule: Callable[[GateInputs], np.ndarray]
    parameters: tuple[str, ...] = ()
    prompt_stats: tuple[str, ...] = ()
    family: str = "Outputs"
    apart: bool = False
    merge: str | None = None
    calibrated: bool = False
    token_routed: bool = False

    @property
    def needs_kl(self) -> bool:
        return "kl" in self.prompt_stats


def band_profile(bands: tuple[float, float, float], layers: int) -> np.ndarray:
    """[L] multiplier per layer: the first, second and last third of the layers take one number each."""
    return np.array([bands[min(3 * layer // layers, 2)] for layer in range(layers)])


def logit_mixture(method: Method, question: GateInputs) -> LogitMixture:
    """The method's rule as a row's voices, float32: strength and layer bands are the same for all methods.

    Apart, with a the rule's numbers and l_i the logits of the base with adapter i alone, its gates the layer
    bands: l = l_0 + strength * sum_i a_i (l_i - l_0).
    """
    composition = question.composition
    profile = band_profile(composition.bands, question.layers)  # [L]
    if not method.apart:
        gates = (composition.strength * profile)[:, None] * method.rule(question)  # [L, N]
        return LogitMixture.one(gates.astype(np.float32))
    shares = composition.strength * method.rule(replace(question, layers=1))[0]  # [N]
    alone = np.eye(len(shares))[:, None, :] * profile[:, None]  # [N, L, N]
    gates = np.concatenate([np.zeros((1, *alone.shape[1:])), alone]).astype(np.float32)  # [1 + N, L, N]
    return LogitMixture.of([1 - shares.sum(), *shares], gates)
