"""The wall: what a token's bare matrix products take when nothing else is done.

Every Linear of the decoder layers and the unembedding, in the order of the model, one row in or several. The
weights come from memory as they do in decoding: together they are larger than any cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from benchmarks.fixture import clone_modules
from benchmarks.timing import Measurement, quantile, timed
from composer.model.gated_model import GatedModel
from composer.model.loading import Base
from composer.model.runtime.llama.onednn_linear import pack, packed_linear

LinearGroup = Callable[[], torch.Tensor]

TRIES = 7
COPY_BYTES = {"cuda": 2**31, "cpu": 2**26}


@dataclass(frozen=True)
class Wall:
    """One token's products for every row, each in its fastest form."""

    walk: Callable[[], object]
    # Shape -> the form that won.
    forms: dict[str, str]
    device: torch.device

    def __call__(self, tokens: int) -> Measurement:
        return timed(lambda: [self.walk() for _ in range(tokens)], self.device, tokens)


def linears(base: Base) -> list:
    """The base's own Linear layers, decoder first, unembedding last. No engine may have changed the base."""
    model: PreTrainedModel = base.model
    paths = GatedModel(clone_modules(base).model).sites
    return [*(model.get_submodule(path) for path in paths), model.get_output_embeddings()]


def weight_bytes(base: Base) -> int:
    """What has to be read from memory for one token, quantisation constants included."""
    total = 0
    for layer in linears(base):
        total += layer.weight.numel() * layer.weight.element_size()
        absmax = getattr(getattr(layer.weight, "quant_state", None), "absmax", None)
        total += 0 if absmax is None else absmax.numel() * absmax.element_size()
    return total


@torch.inference_mode()
def bare_products(base: Base, rows: int = 1) -> Wall:
    """The wall of this base on this device, with the fastest plain-torch form of each shape of product.

    Which form is fastest depends on the machine: some CPUs' BLAS runs a one-row product on one thread, and
    a batch of row blocks on all of them. So all are tried, inside the walk, where the weights are cold.
    """
    layers = linears(base)
    inputs = {layer.in_features: _rows(layer, base, rows) for layer in layers}
    forms = [_forms(layer, inputs[layer.in_features]) for layer in layers]
    chosen = dict.fromkeys(map(_shape, layers), "rows")
    if base.device.type == "cuda":
        return Wall(_graph([form["rows"] for form in forms]), chosen, base.device)

    def walk_of(choice: dict[str, str]) -> Callable[[], object]:
        products = [form[choice[_shape(layer)]] for layer, form in zip(layers, forms, strict=True)]
        return lambda: [product() for product in products]

    for shape in chosen:
        others = [form for layer, form in zip(layers, forms, strict=True) if _shape(layer) == shape]
        candidates = {name: walk_of({**chosen, shape: name}) for name in others[0]}
        chosen[shape] = _fastest(candidates, base.device)
    return Wall(walk_of(chosen), chosen, base.device)


def copy_bandwidth(device: torch.device, size: int | None = None) -> float:
    """Bytes a second that a plain copy moves, read and written both counted; the best of TRIES."""
    size = size or COPY_BYTES[device.type]
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size / min(timed(lambda: target.copy_(source), device).seconds for _ in range(TRIES))


def _rows(layer, base: Base, count: int) -> torch.Tensor:
    return torch.randn(count, layer.in_features, device=base.device).to(base.dtype)  # [B, K]


def _shape(layer) -> str:
    return f"{layer.out_features}x{layer.in_features}"


def _forms(layer, x: torch.Tensor) -> dict[str, LinearGroup]:
    weight = layer.weight  # [O, K]
    if not weight.is_floating_point():
        return {"rows": lambda: layer(x)}
    turned = weight.t()  # [K, O]
    forms: dict[str, LinearGroup] = {"rows": lambda: torch.mm(x, turned)}  # what F.linear runs
    threads = torch.get_num_threads()
    if threads > 1 and len(weight) % threads == 0:
        blocks = weight.view(threads, -1, weight.shape[1]).transpose(1, 2)  # [c, K, O/c]
        spread = x.expand(threads, -1, -1)  # [c, B, K]
        forms["blocks"] = lambda: torch.bmm(spread, blocks)
    if (packed := pack(weight)) is not None:
        forms["packed"] = lambda: packed_linear(x, packed)
    return forms


def _fastest(candidates: dict[str, Callable[[], object]], device: torch.device) -> str:
    if len(candidates) == 1:
        return next(iter(candidates))
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(TRIES):
        for name, walk in candidates.items():
            taken[name].append(timed(walk, device).seconds)
    return min(taken, key=lambda name: quantile(taken[name], 0.5))


def _graph(products: Sequence[LinearGroup]) -> Callable[[], object]:
    """All products as one CUDA graph, so that no launch is waited for."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for product in products:
            product()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [product() for product in products]

    def replay() -> Sequence[torch.Tensor]:
        graph.replay()
        return kept  # what the graph writes into lives as long as it can be replayed

    return replay
