"""What a method is: a function from weights to gates, with the words that explain it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from composer.core.composition import Composition
from composer.model.logit_mixture import LogitMixture


@dataclass(frozen=True)
class PromptStats:
    """Statistics of a prompt, each adapter measured alone; None for those that no method asked for."""

    # KL divergence of the logit lens with the adapter from the base's, [L, N] nats.
    kl: np.ndarray | None = None
    # 1 - cosine of the hidden state with the adapter and the base's, [L, N].
    distance: np.ndarray | None = None
    # The adapter's contribution at the prompt's last token, [L, N].
    contribution: np.ndarray | None = None
    # |y_i| at the last layer's query projection, on the base's own hidden state, [N].
    query_norm: np.ndarray | None = None
    # Mean log-likelihood of the prompt's tokens after the first, [N] nats; 0 for a prompt of one token.
    likelihood: np.ndarray | None = None
    # KL divergence of the base's next token from the one with the adapter, over the likely tokens, [N] nats.
    next_token: np.ndarray | None = None


@dataclass(frozen=True)
class GateInputs:
    """Everything that a gate function may use."""

    weights: np.ndarray  # [N]
    layers: int
    # Sets of adapters that are opposites of each other, as indices.
    groups: tuple[tuple[int, ...], ...]
    composition: Composition
    # What the method's `prompt_stats` name; 0 for adapters with weight 0.
    prompt: PromptStats = PromptStats()
    # Multipliers of the weights, [L, N]; None: 1 everywhere.
    curves: np.ndarray | None = None

    @property
    def active(self) -> np.ndarray:
        """[N] bool: the adapters with a weight."""
        return self.weights != 0


# Gates, [L, N].
GateFunction = Callable[[GateInputs], np.ndarray]


@dataclass(frozen=True)
class Method:
    """A way to compose adapters. `gate_method` makes one of a gate function."""

    # The key in METHODS.
    name: str
    label: str
    # One line for the page.
    help: str
    # Plain text; s_i B_i A_i is adapter i, w_i its weight, g_i its gate.
    formula: str
    # Where the formula is from.
    source: str
    # Gates [L, N]; with `on_logits` each adapter's coefficient, [1, N].
    gate_fn: GateFunction
    # The fields of Composition that it reads beside weights, strength and bands.
    parameters: tuple[str, ...] = ()
    # The fields of PromptStats that it needs.
    prompt_stats: tuple[str, ...] = ()
    # The kind of method, for lists.
    family: str = "Outputs"
    # The base runs once more with each adapter alone, and the logits are combined.
    on_logits: bool = False
    # The rule of composer.methods.merging that makes one adapter of those with a weight, which is then added.
    merge: str | None = None
    # The adapters are calibrated against each other first.
    calibrated: bool = False
    # The name in composer.methods.merging.CALIBRATIONS.
    calibration: str = "pico"
    # Every token weights the adapters anew at every site.
    token_routed: bool = False
    # Tokens score adapters by the norm of what they add, or along their main directions.
    by_norm: bool = False
    # The gates are computed anew for every token, from all that is written.
    every_token: bool = False

    @property
    def needs_kl(self) -> bool:
        """Whether it uses the prompt's KL divergences."""
        return "kl" in self.prompt_stats


def gate_method(**words: Any) -> Callable[[GateFunction], Method]:
    """Decorates a gate function: the fields of Method but `gate_fn`. The name then stands for the Method."""

    def made(gate_fn: GateFunction) -> Method:
        return Method(gate_fn=gate_fn, **words)

    return made


def band_profile(bands: tuple[float, float, float], layers: int) -> np.ndarray:
    """[L] multiplier per layer: the first, second and last third of the layers take one number each."""
    return np.array([bands[min(3 * layer // layers, 2)] for layer in range(layers)])


def logit_mixture(method: Method, inputs: GateInputs) -> LogitMixture:
    """The branches of a row and their gates, float32. Strength, layer bands and curves apply to every method.

    A curve multiplies the adapter's weight in each layer, as if its slider were moved there.

    On the logits, with a the method's coefficients and l_i the logits of the base with adapter i alone, its
    gates the layer bands times its curve: l = l_0 + strength * sum_i a_i (l_i - l_0).
    """
    composition = inputs.composition
    profile = band_profile(composition.bands, inputs.layers)  # [L]
    if not method.on_logits:
        gates = (composition.strength * profile)[:, None] * _gates(method, inputs)  # [L, N]
        return LogitMixture.one(gates.astype(np.float32))
    shares = composition.strength * method.gate_fn(replace(inputs, layers=1))[0]  # [N]
    alone = np.eye(len(shares))[:, None, :] * profile[:, None]  # [N, L, N]
    if inputs.curves is not None:
        alone = alone * inputs.curves  # [N, L, N]
    gates = np.concatenate([np.zeros((1, *alone.shape[1:])), alone]).astype(np.float32)  # [1 + N, L, N]
    return LogitMixture.of([1 - shares.sum(), *shares], list(gates))


def _gates(method: Method, inputs: GateInputs) -> np.ndarray:
    """The method's gates [L, N], each layer's made of the weights that it has there."""
    if inputs.curves is None:
        return method.gate_fn(inputs)
    gates = np.zeros((inputs.layers, len(inputs.weights)))  # [L, N]
    for curve in np.unique(inputs.curves, axis=0):
        here = (inputs.curves == curve).all(axis=1)  # [L]
        gates[here] = method.gate_fn(replace(inputs, weights=inputs.weights * curve))[here]
    return gates
