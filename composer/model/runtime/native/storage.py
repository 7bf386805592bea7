"""Weights in the smallest storage that holds them to the bit.

Reading the weights is what a decoded token costs. Most checkpoints were stored in fewer bits than float32
before they were loaded in it: in bfloat16 or float16, or in groups of 32 small whole numbers with a scale
(the block formats of GGUF). Such weights are found by their values and stored in those bits again, so the
products are of the same numbers and a fraction of the bytes is read. bitsandbytes' nf4 is read where it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch

from composer.model.runtime.nf4.plan import BLOCK
from composer.model.runtime.nf4.stacking import Stacked, levels

# Weights that share a scale.
GROUP = 32
# Rows that are tried first, to leave early what does not fit.
SAMPLE = 16
# Rows that are stored at a time.
PART = 4096
# The largest whole number of a group in block formats: 15 where a group has an offset, else of either sign.
STEPS = (15, 14, 13, 12, 11, 10, 9, 8)
LARGEST = (127, 128, 16, 15, 64, 63, 32, 31, 8, 7)


class Storage(IntEnum):
    """As step.cpp numbers them."""

    F32 = 0
    BF16 = 1
    F16 = 2
    # Groups of 0 to 15, with a scale and an offset in float16.
    U4 = 3
    # Groups of -128 to 127 with a scale in float16.
    I8 = 4
    # bitsandbytes' own bytes: 16 levels, two weights a byte, with a scale in float32 for 64.
    NF4 = 5


@dataclass(frozen=True)
class StoredMatrix:
    """A [O, K] weight in a storage."""

    storage: Storage
    rows: int
    columns: int
    # [O, K], but [O, K / 2] bytes for U4: element j of a group in the low half of its byte j, element 16 + j
    # in the high half; and for NF4: element 2j in the high half of byte j, element 2j + 1 in the low half.
    data: torch.Tensor
    scale: torch.Tensor | None = None  # [O, K / GROUP] float16; for NF4 [O, K / BLOCK] float32
    offset: torch.Tensor | None = None  # [O, K / GROUP] float16

    @classmethod
    def of(
        cls,
        weight: torch.Tensor,
        storage: Storage,
        data: torch.Tensor,
        scale: torch.Tensor | None = None,
        offset: torch.Tensor | None = None,
    ) -> StoredMatrix:
        """A [O, K] weight's."""
        rows, columns = weight.shape
        return cls(storage, rows, columns, data, scale, offset)

    @property
    def bytes(self) -> int:
        parts = (self.data, self.scale, self.offset)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def weight(self) -> torch.Tensor:
        """[O, K] float32."""
        if self.storage is Storage.NF4:
            assert self.scale is not None
            codes = torch.stack([self.data >> 4, self.data & 15], dim=2).long()  # [O, K / 2, 2]
            blocks = levels()[codes].view(self.rows, -1, BLOCK) * self.scale[..., None]
            return blocks.view(self.rows, self.columns)
        if self.storage not in (Storage.U4, Storage.I8):
            return self.data.float()
        numbers = self.data
        if self.storage is Storage.U4:
            halves = self.data.view(self.rows, -1, GROUP // 2)
            numbers = torch.cat([halves & 15, halves >> 4], dim=2)
        groups = numbers.view(self.rows, -1, GROUP).float()
        assert self.scale is not None
        weight = groups * self.scale.float()[..., None]
        if self.offset is not None:
            weight = weight + self.offset.float()[..., None]
        return weight.view(self.rows, self.columns)


def store_exactly(weight: torch.Tensor) -> StoredMatrix:
    """A float32 [O, K] weight in the smallest storage that holds every one of its numbers."""
    return _stored(weight, _four_bits, _eight_bits, _brain_float, _half)


def _stored(weight: torch.Tensor, *attempts: Callable[[torch.Tensor], StoredMatrix | None]) -> StoredMatrix:
    """What the first attempt makes that can, else the weight as it is. Products read the storages in steps of
    GROUP columns."""
    if weight.shape[1] % GROUP == 0 and len(weight):
        for attempt in attempts:
            if attempt(weight[:SAMPLE]) is not None and (found := _in_parts(attempt, weight)) is not None:
                return found
    return store_as_loaded(weight)


def _in_parts(
    attempt: Callable[[torch.Tensor], StoredMatrix | None], weight: torch.Tensor
) -> StoredMatrix | None:
    """The attempt on some rows after the others, so that a large matrix does not need several times its
    memory; None where it fails on any."""
    parts: list[StoredMatrix] = []
    for start in range(0, len(weight), PART):
        if (found := attempt(weight[start : start + PART])) is None:
            return None
        parts.append(found)
    return parts[0] if len(parts) == 1 else stack(parts)


def store_as_loaded(weight: torch.Tensor) -> StoredMatrix:
    """A float32 [O, K] weight as it is."""
    return StoredMatrix.of(weight, Storage.F32, weight.detach().contiguous())


def store_plainly(weight: torch.Tensor) -> StoredMatrix:
    """A float32 [O, K] weight in bfloat16 if that holds it exactly, else as it is."""
    return _brain_float(weight) or store_as_loaded(weight)


def store_as_floats(weight: torch.Tensor) -> StoredMatrix:
    """A float32 [O, K] weight in bfloat16 or float16 if that holds it exactly, else as it is.

    An adapter's factors come as one of these. To look for integers in them would take most of the time of a
    new set of adapters, while all texts wait.
    """
    return _stored(weight, _brain_float, _half)


def store_nf4(joint: Stacked) -> StoredMatrix:
    """Layers' nf4 weights as bitsandbytes has them. Nothing is copied."""
    rows, columns = len(joint.packed), 2 * joint.packed.shape[1]
    return StoredMatrix(Storage.NF4, rows, columns, joint.packed, joint.absmax)


def store_int8(weight: torch.Tensor) -> StoredMatrix:
    """The weight rounded to int8 by groups of 32, unless it is held exactly in as few bits.

    Weights whose columns are no multiple of 32 stay as they are.
    """
    exact = store_exactly(weight)
    if exact.storage in (Storage.U4, Storage.I8) or weight.shape[1] % GROUP:
        return exact
    groups = _groups(weight)
    scale = (groups.abs().amax(dim=2) / 127).to(torch.float16)  # [O, G]
    numbers = _whole(groups / scale.float()[..., None], -127, 127)
    return _eight(weight, numbers, scale)


def stack(parts: Sequence[StoredMatrix]) -> StoredMatrix | None:
    """The matrices below each other; None where their storages differ."""
    first = parts[0]
    if any(part.storage is not first.storage for part in parts):
        return None
    return StoredMatrix(
        first.storage,
        sum(part.rows for part in parts),
        first.columns,
        torch.cat([part.data for part in parts]),
        None if first.scale is None else torch.cat([part.scale for part in parts if part.scale is not None]),
        None
        if first.offset is None
        else torch.cat([part.offset for part in parts if part.offset is not None]),
    )


def _groups(weight: torch.Tensor) -> torch.Tensor:
    return weight.view(len(weight), -1, GROUP)  # [O, G, 32]


def _whole(numbers: torch.Tensor, low: int, high: int) -> torch.Tensor:
    return numbers.nan_to_num_(nan=0.0).round_().clamp_(low, high)


def _four_bits(weight: torch.Tensor) -> StoredMatrix | None:
    """w = scale * q + offset: the least number of a group is its offset, the largest one is 15 scales above
    it in all groups that a quantiser made."""
    groups = _groups(weight)
    low, high = groups.amin(dim=2), groups.amax(dim=2)  # [O, G]
    offset = low.to(torch.float16)
    if not torch.equal(offset.float(), low):
        return None
    scale, numbers = torch.zeros_like(offset), torch.zeros_like(groups, dtype=torch.uint8)
    open_ = torch.ones_like(low, dtype=torch.bool)
    for steps in STEPS:
        own = ((high - low)[open_] / steps).to(torch.float16)  # [n]
        part, start = groups[open_], low[open_][:, None]  # [n, 32], [n, 1]
        wide = own.float()[:, None]
        found = _whole((part - start) / wide, 0, 15)
        right = (found * wide + start == part).all(dim=1)  # [n]
        place = open_.nonzero()[right]  # [m, 2]
        scale[place[:, 0], place[:, 1]] = own[right]
        numbers[place[:, 0], place[:, 1]] = found[right].to(torch.uint8)
        open_[place[:, 0], place[:, 1]] = False
        if not open_.any():
            halves = numbers[:, :, : GROUP // 2] | numbers[:, :, GROUP // 2 :] << 4
            return StoredMatrix.of(weight, Storage.U4, halves.flatten(1), scale, offset)
    return None


def _eight_bits(weight: torch.Tensor) -> StoredMatrix | None:
    """w = scale * q: the largest number of a group is a whole number of scales."""
    groups = _groups(weight)
    highest = groups.abs().amax(dim=2)  # [O, G]
    scale, numbers = torch.zeros_like(highest, dtype=torch.float16), torch.zeros_like(groups)
    open_ = torch.ones_like(highest, dtype=torch.bool)
    for largest in LARGEST:
        own = (highest[open_] / largest).to(torch.float16)
        part, wide = groups[open_], own.float()[:, None]
        found = _whole(part / wide, -128, 127)
        right = (found * wide == part).all(dim=1)
        place = open_.nonzero()[right]
        scale[place[:, 0], place[:, 1]] = own[right]
        numbers[place[:, 0], place[:, 1]] = found[right]
        open_[place[:, 0], place[:, 1]] = False
        if not open_.any():
            return _eight(weight, numbers, scale)
    return None


def _eight(weight: torch.Tensor, numbers: torch.Tensor, scale: torch.Tensor) -> StoredMatrix:
    return StoredMatrix.of(weight, Storage.I8, numbers.to(torch.int8).flatten(1), scale)


def _brain_float(weight: torch.Tensor) -> StoredMatrix | None:
    short = weight.to(torch.bfloat16)
    return StoredMatrix.of(weight, Storage.BF16, short) if torch.equal(short.float(), weight) else None


def _half(weight: torch.Tensor) -> StoredMatrix | None:
    short = weight.to(torch.float16)
    return StoredMatrix.of(weight, Storage.F16, short) if torch.equal(short.float(), weight) else None
