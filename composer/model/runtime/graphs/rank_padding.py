"""The rank axis of a set of adapters, padded so that few shapes occur: the same rank at every site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from composer.model.rank_layout import GateTelemetry, Layout

# Summed ranks that a site is padded to. Beyond the last, passes run uncaptured on a table of their own.
RANKS = (0, 8, 16, 32, 64, 128, 256)


class Bucket(NamedTuple):
    """What the shapes of a pass depend on: the sites that are there, and the rank at each."""

    paths: tuple[str, ...]
    rank: int

    @property
    def width(self) -> int:
        """Columns of the padded rank axis."""
        return len(self.paths) * self.rank


def rank_bucket(rank: int) -> int | None:
    """The least of RANKS that is no less; None beyond the last."""
    return next((each for each in RANKS if rank <= each), None)


@dataclass(frozen=True)
class RankPadding:
    """Where a layout's columns stand on the padded axis, on which each site has `bucket.rank` columns."""

    bucket: Bucket
    # [Z] int64: the padded column of each column of the layout.
    columns: torch.Tensor
    # Of the padded columns, [Zp]; 0 for columns that nobody has.
    layer: torch.Tensor
    adapter_index: torch.Tensor
    scaling: torch.Tensor

    @classmethod
    def of(cls, layout: Layout) -> RankPadding | None:
        """None for a summed rank beyond the last bucket."""
        starts, ends = zip(*layout.spans.values(), strict=True) if layout.spans else ((), ())
        rank = rank_bucket(max((end - start for start, end in zip(starts, ends, strict=True)), default=0))
        if rank is None:
            return None
        # Without a column there is nothing to compute at any site.
        bucket = Bucket(tuple(layout.spans) if rank else (), rank)
        device = layout.adapter_index.device
        first = torch.tensor(starts, dtype=torch.int64, device=device)  # [S]
        place = torch.arange(len(layout.adapter_index), device=device)  # [Z]
        columns = layout.site * rank + place - first[layout.site]

        def spread(own: torch.Tensor) -> torch.Tensor:
            return own.new_zeros(bucket.width).index_copy_(0, columns, own)

        return cls(
            bucket, columns, spread(layout.layer), spread(layout.adapter_index), spread(layout.scaling)
        )

    def unpad(self, telemetry: GateTelemetry | None, layout: Layout, rows: int) -> GateTelemetry | None:
        """A padded pass's telemetry of the first rows, on the layout's own columns, as copies."""
        if not layout.spans:
            return None
        if telemetry is None:  # no adapter is there, so each contribution is 0 whatever the energy
            device = self.columns.device
            return GateTelemetry(
                torch.zeros(rows, 0, dtype=layout.dtype, device=device),
                torch.zeros(rows, layout.layers, device=device),
                layout,
            )
        coded, energy = telemetry.coded[:rows, self.columns], telemetry.energy[:rows].clone()
        return GateTelemetry(coded, energy, layout)
