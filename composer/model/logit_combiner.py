"""From the logits of rows' voices to the rows' own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from composer.model.logit_mixture import LogitMixture


class LogitCombiner:
    """Makes rows' logits of their voices'. Built once for the same rows, used every token."""

    def __init__(
        self, mixture: Sequence[LogitMixture], device: torch.device, order: Sequence[int] | None = None
    ):
        """order: where the rows' voices, one row's after another's, stand in a pass; None: just so."""
        self._counts = [len(each) for each in mixture]
        self._alone = all(count == 1 for count in self._counts)
        if not self._alone:
            mix = np.concatenate([each.mix for each in mixture])
            self._mix = torch.from_numpy(mix).to(device, torch.float32)  # [P]
            self._order = None if order is None else torch.tensor(order, device=device)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """[P, ..., V] -> [B, ..., V]; the very same tensor where every row has one voice."""
        if self._alone:
            return logits
        ordered = (logits if self._order is None else logits[self._order]).float()
        parts = zip(self._mix.split(self._counts), ordered.split(self._counts), strict=True)
        # A row of one voice is not multiplied: in company it is, bit for bit, what it is alone.
        return torch.stack([own[0] if len(own) == 1 else torch.tensordot(mix, own, 1) for mix, own in parts])
