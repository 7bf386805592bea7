"""An adapter's weights, from its file into memory: nothing of what is loaded hangs on the file any more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError

from composer.adapters.bank import Adapter, LoraFactors
from composer.adapters.files import WEIGHTS, AdapterFiles
from composer.adapters.fit.patterns import Patterns
from composer.adapters.fit.report import scaling
from composer.adapters.fit.tensors import PLAIN, BaseNames, matrices
from composer.adapters.header import parse_header
from composer.core.catalog_types import FitReport
from composer.core.errors import ComposerError


def load_adapter(
    folder: Path,
    files: AdapterFiles,
    report: FitReport,
    *,
    device: torch.device,
    dtype: torch.dtype,
    base: BaseNames = PLAIN,
    devices: Mapping[str, torch.device] | None = None,
) -> Adapter:
    """Loads the weights of `files` in `folder`, which `report` accepted for this `base`.

    devices: of sites whose factors do not go to `device`.

    The bytes are read and not mapped, since truncating a mapped file would crash the process and overwriting
    it would change the loaded weights. Raises ComposerError for a file that cannot be read, that changed
    since the report, or that holds NaN or infinity, which would reach every row (0 * inf is NaN).
    """
    tensors = _read(folder / WEIGHTS, files)
    halves: dict[tuple[str, str], torch.Tensor] = {}
    for key, place in matrices(files.header, base).items():
        tensor = tensors.pop(key)
        if place is not None and place[0] in report.ranks:
            halves[place] = _finite(tensor, (devices or {}).get(place[0], device), dtype)
    patterns = Patterns()
    return {
        path: LoraFactors(halves[path, "A"], halves[path, "B"], scaling(files.config, path, rank, patterns))
        for path, rank in report.ranks.items()
    }


def _read(path: Path, files: AdapterFiles) -> dict[str, torch.Tensor]:
    changed = ComposerError("The adapter's weights changed after they were checked; load it again.")
    try:
        with path.open("rb") as file:
            data = file.read(files.bytes + 1)
        if len(data) != files.bytes or parse_header(data, len(data)) != files.header:
            raise changed  # itself a ValueError
        tensors = safetensors.torch.load(data)
    except (OSError, SafetensorError, MemoryError) as fault:
        raise ComposerError(
            "The adapter's weights cannot be read; delete the cached copy and load it again."
        ) from fault
    except (ValueError, RecursionError):
        raise changed from None
    if {key: tuple(tensor.shape) for key, tensor in tensors.items()} != {
        key: info.shape for key, info in files.header.items()
    }:
        raise changed
    return tensors


def _finite(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A copy of the tensor. Raises ComposerError if it is not finite, before or after the cast to `dtype`."""
    # Not every operation knows the 8-bit types, and float32 holds all of their numbers.
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    if not torch.isfinite(wide).all():
        raise ComposerError(
            "The adapter's weights hold NaN or infinite numbers; train it again with a lower rate."
        )
    own = wide.to(device, dtype, copy=True).contiguous()
    if not torch.isfinite(own).all():
        raise ComposerError(
            f"The adapter's weights hold numbers too large for this base's {str(dtype).split('.')[1]}; "
            "use the base in another dtype."
        )
    return own
