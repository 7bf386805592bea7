"""Combines the logits of rows' branches. Apart from LogitMixture, which methods use without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from composer.model.logit_mixture import LogitMixture


class LogitCombiner:
    """Combines the logits of branches into those of rows. Built once for a set of rows, used every token."""

    def __init__(
        self, mixture: Sequence[LogitMixture], device: torch.device, order: Sequence[int] | None = None
    ):
        """order: the index in a pass of each row's branches, row after row; None: 0, 1, 2, ..."""
        self._counts = [len(each) for each in mixture]
        self._alone = all(count == 1 for count in self._counts)
        if not self._alone:
            mix = np.concatenate([each.mix for each in mixture])
            self._mix = torch.from_numpy(mix).to(device, torch.float32)  # [P]
            self._order = None if order is None else torch.tensor(order, device=device)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """[P, ..., V] -> [B, ..., V]; the same tensor where every row has one branch."""
        if self._alone:
            return logits
        ordered = (logits if self._order is None else logits[self._order]).float()
        parts = zip(self._mix.split(self._counts), ordered.split(self._counts), strict=True)
        # A row of one branch is not multiplied, so that it gets the same bits with and without other rows.
        return torch.stack([own[0] if len(own) == 1 else torch.tensordot(mix, own, 1) for mix, own in parts])
