"""Numbers that overflowed, and the sentence for them."""

from __future__ import annotations

import numpy as np
import torch

from composer.core.errors import ComposerError

OVERFLOW = (
    "The numbers of this text overflowed, so no word can follow: "
    "lower the weights, the strength or the layer bands, or leave out the adapter that is too strong."
)


def drawable(logits: torch.Tensor) -> torch.Tensor:
    """[..., V] logits -> [...] bool: whether a token can be drawn from them.

    False for a NaN or +inf among them. -inf is a token that cannot come, unless all are. The largest logit
    tells: `amax` keeps a NaN.
    """
    top = largest(logits)
    return torch.from_numpy(np.asarray(np.isfinite(top.numpy()))) if _by_numpy(top) else top.isfinite()


def largest(scores: torch.Tensor) -> torch.Tensor:
    """[..., V] -> [...]: each row's largest, NaN where there is one.

    On a CPU by numpy, on this thread alone: torch wakes another one for as little as this, which takes longer
    than the work does and then keeps a core from the decoding step.
    """
    if not _by_numpy(scores):
        return scores.amax(dim=-1)
    return torch.from_numpy(np.asarray(scores.detach().numpy().max(axis=-1)))


def _by_numpy(scores: torch.Tensor) -> bool:
    return scores.device.type == "cpu" and scores.dtype == torch.float32


def check_drawable(logits: torch.Tensor) -> torch.Tensor:
    """The same logits, [..., V]. Raises ComposerError unless every row of them is drawable."""
    check_largest(largest(logits))
    return logits


def check_largest(top: torch.Tensor) -> torch.Tensor:
    """The same, [...]: the largest logit of each row. Raises ComposerError unless every row is drawable."""
    if not bool(top.isfinite().all()):
        raise ComposerError(OVERFLOW)
    return top
