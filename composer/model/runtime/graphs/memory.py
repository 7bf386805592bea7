"""What takes how much memory on a device, for a line at the start and for benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn

from composer.model.gated_model import GatedModel
from composer.model.rank_layout import Layout
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.runtime.graphs.capture import CudaCapture
from composer.model.runtime.llama.onednn_linear import packed_bytes
from composer.model.runtime.llama.runner import LlamaRunner
from composer.model.runtime.native.runner import NativeRunner
from composer.model.runtime.runner import ModelRunner

GIGA = 1e9


def memory_by_use(uses: Mapping[str, Iterable[torch.Tensor]]) -> dict[str, int]:
    """Bytes of each use's tensors. Memory that several tensors share is counted once, for the first use."""
    seen: set[int] = set()
    found = dict.fromkeys(uses, 0)
    for name, tensors in uses.items():
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in seen:  # its address would be 0 on the meta device
                seen.add(storage._cdata)
                found[name] += storage.nbytes()
    return found


def runner_memory(model: GatedModel, runner: ModelRunner, layout: Layout) -> dict[str, int]:
    """Bytes of the base's weights, of what is packed of them, of the adapters of a layout, of their copies by
    group, of the KV pool and of the graphs."""
    graphs = runner if isinstance(runner, CudaGraphRunner) else None
    native = runner if isinstance(runner, NativeRunner) else None
    inner = graphs.inner if graphs else native.inner if native else runner
    llama = inner if isinstance(inner, LlamaRunner) else None
    uses = {
        "base weights": tensors_of(model.model),
        "packed weights": tensors_of([llama._base, llama.head, llama._rope_tables]) if llama else (),
        "adapters": (
            tensor
            for site in layout.bank.sites.values()
            for part in site.parts
            for tensor in (part.A, part.B)
        ),
        "adapters by group": tensors_of(
            [
                llama._tables,
                native.step if native else None,
                graphs.adapter_memory if graphs else None,
            ]
        )
        if llama
        else (),
        "KV pool": graphs.pool.layers if graphs else (),
    }
    found = memory_by_use({name: list(tensors) for name, tensors in uses.items()})
    if llama:
        handles = {id(each): each for each in tensors_of([llama._base, llama.head])}
        found["packed weights"] += sum(map(packed_bytes, handles.values()))
    return found | {"graphs": graph_memory(graphs.capture) if graphs else 0}


def graph_memory(capture: object) -> int:
    """Bytes that graphs keep for what they compute."""
    if not isinstance(capture, CudaCapture) or capture.pool is None:
        return 0
    segments = torch.cuda.memory_snapshot()
    return sum(each["total_size"] for each in segments if tuple(each["segment_pool_id"]) == capture.pool)


def in_words(memory: Mapping[str, int]) -> str:
    """One line: every use with its gigabytes, and the sum."""
    parts = [f"{name} {size / GIGA:.2f}" for name, size in memory.items() if size]
    return f"memory in GB: {', '.join(parts) or 'none'}; {sum(memory.values()) / GIGA:.2f} in all"


def tensors_of(root: Any) -> Iterator[torch.Tensor]:
    """The tensors that an object holds: in modules, containers, dataclasses and objects of this project, and
    those that bitsandbytes keeps beside a weight or in a layer's state."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, torch.Tensor):
            yield each
            waiting += [vars(each).get("quant_state"), vars(each).get("SCB")]
        elif isinstance(each, nn.Module):
            waiting += [*each.parameters(), *each.buffers()]
            waiting += [vars(layer).get("state") for layer in each.modules()]
        elif isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, (list, tuple, set)):
            waiting += each
        elif is_dataclass(each) and not isinstance(each, type):
            waiting += [getattr(each, field.name) for field in fields(each)]
        elif type(each).__module__.partition(".")[0] in ("composer", "bitsandbytes"):
            waiting += vars(each).values()
