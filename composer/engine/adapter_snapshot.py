"""The adapters at one moment, with what is derived once per set of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from composer.adapters.bank import AdapterBank
from composer.core.catalog_types import AdapterSpec
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message
from composer.model.contribution import Contribution
from composer.model.gated_model import GatedModel
from composer.model.rank_layout import GateTelemetry, Layout


@dataclass(frozen=True)
class AdapterSnapshot:
    """One set of adapters. It is replaced as a whole, so that no call sees half of a change."""

    # May hold more than `adapters`: those that were merged from them.
    bank: AdapterBank
    # The loaded adapters, which can be asked for by name.
    adapters: tuple[AdapterSpec, ...]
    layout: Layout

    @classmethod
    def of(cls, model: GatedModel, bank: AdapterBank, adapters: tuple[AdapterSpec, ...]) -> AdapterSnapshot:
        return cls(bank, adapters, model.layout(bank))

    def followed_by(
        self, model: GatedModel, bank: AdapterBank, adapters: tuple[AdapterSpec, ...]
    ) -> AdapterSnapshot:
        """The next snapshot, of a bank that was made of this one's."""
        return AdapterSnapshot(bank, adapters, model.layout(bank, self.layout))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(adapter.name for adapter in self.adapters)

    def contribution(self, telemetry: GateTelemetry | None) -> torch.Tensor:
        """[B, L, N] float32 over the bank's columns, dimensionless; 0 for those that the pass ran without.

        B is 1 where a bank without sites left nothing to read.
        """
        count = len(self.bank.names)
        if telemetry is None:
            return torch.zeros(1, self.layout.layers, count, device=self.layout.adapter_index.device)
        part = telemetry.layout.once(Contribution)(telemetry)  # [B, L, n]
        if telemetry.layout.columns == tuple(range(count)):
            return part
        whole = part.new_zeros(*part.shape[:2], count)
        return whole.index_copy_(2, telemetry.layout.once(_columns), part)

    def index(self, name: str) -> int:
        """The adapter's index in `names`. Raises ComposerError for an unknown name."""
        if name not in self.names:
            raise ComposerError(unknown_name_message("adapter", name, self.names))
        return self.names.index(name)

    def column(self, name: str) -> int:
        """The adapter's column in the bank. Raises ComposerError as `index`."""
        self.index(name)
        return self.bank.names.index(name)


def _columns(layout: Layout) -> torch.Tensor:
    """[n] int64: the layout's columns in the whole bank, on its device, so that no pass waits for them."""
    return torch.tensor(layout.columns, dtype=torch.int64, device=layout.scaling.device)
