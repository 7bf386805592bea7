"""The gate at a site: out[b] = W0 x[b] + ((x[b] A^T) * s[b]) B^T, with s from the call's gates.

Nothing here remembers which adapters are "active". A forward pass runs inside a `GateCall` that brings
its bank and its gates; passes in other threads bring their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from composer.adapters.bank import AdapterBank
from composer.core.errors import ComposerError, sanitize
from composer.model.placement import device_of, is_spread
from composer.model.rank_layout import GateTelemetry, Layout, layer_energy
from composer.model.runtime.nf4.stacking import exact_on_cpu
from composer.model.runtime.token_routing import TokenRouter


class GateCall:
    """What one or more forward passes add, per row, and what they write down.

    gates: [B, L, N] multiplier of each adapter in each layer, for each row; N as in `bank.names`.
    routing: how rows' tokens share them out; None: no row's do.
    meter: None, or receives every site's last-token reading. capture: "last" keeps each decoder layer's
    hidden state at the last token in `hidden`, [B, d], "all" at every token, [B, T, d].
    """

    def __init__(
        self,
        layout: Layout,
        gates: torch.Tensor,
        routing: TokenRouter | None = None,
        *,
        recorder: TelemetryRecorder | None = None,
        capture: str = "",
    ):
        self.layout, self.routing = layout, routing
        self.scales = layout.scales(gates)  # [B, Z]
        self.recorder = recorder
        self.capture = capture
        self.hidden: list[torch.Tensor] = []  # L of [B, d] or [B, T, d]

    def scale(self, path: str, z: torch.Tensor) -> torch.Tensor:
        """Gate times the adapter's own scaling for each rank column of the site, where x A^T is z [B, T, R];
        [B, 1, R], or [B, T, R] where tokens share out their gates."""
        start, end = self.layout.spans[path]
        scale = self.scales[:, None, start:end]
        if self.routing is None:
            return scale.to(z.device)
        here = z.to(scale.device)
        row = torch.arange(len(z), device=here.device).repeat_interleave(z.shape[1])  # [B T]
        return (scale * self.routing(here.flatten(0, 1), start, end, row).view_as(here)).to(z.device)


class TelemetryRecorder:
    """Collects, site by site, what a contribution is made of.

    coded: path -> z = (x A^T) * s of the last token, [B, R]. base: path -> |W0 x| of it, [B].
    """

    def __init__(self):
        self.coded: dict[str, torch.Tensor] = {}
        self.base: dict[str, torch.Tensor] = {}

    def note(self, path: str, z: torch.Tensor, out: torch.Tensor) -> None:
        self.coded[path] = z[:, -1]
        self.base[path] = torch.linalg.vector_norm(out[:, -1], dim=-1, dtype=torch.float32)

    def telemetry(self, layout: Layout, layer_of: Mapping[str, int]) -> GateTelemetry | None:
        """The pass as one value; None for a bank without sites."""
        if not layout.spans:
            return None
        home = layout.adapter_index.device
        coded = torch.cat([self.coded[path].to(home) for path in layout.spans], dim=1)  # [B, Z]
        norms = torch.stack([self.base[path].to(home) for path in layout.spans], dim=1)  # [B, S]
        layer = torch.tensor([layer_of[path] for path in layout.spans], device=norms.device)  # [S]
        return GateTelemetry(coded, layer_energy(norms, layer, layout.layers), layout)


class GatedLinear(nn.Module):
    """A base layer (dense or bitsandbytes) with the gate beside it; alone it is the base layer."""

    def __init__(self, base: nn.Linear, path: str, current: ContextVar[GateCall | None]):
        super().__init__()
        self.base, self.path, self.current = base, path, current

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.base(x)  # [B, T, d_out]
        call = self.current.get()
        site = call.layout.bank.sites.get(self.path) if call is not None else None
        if site is None:
            return out
        z = F.linear(x.to(site.A.dtype), site.A)  # [B, T, R]
        z = z * call.scale(self.path, z)
        if call.recorder is not None:
            call.recorder.note(self.path, z, out)
        return out + F.linear(z, site.B).to(out.dtype)


class GatedModel:
    """A causal language model whose decoder Linear layers carry gates. Changes `model` in place.

    sites: dotted path -> (out_features, in_features) of every Linear inside the decoder layers.
    layer_of: dotted path -> layer index. spread: whether its parts are on several devices. devices: if so,
    dotted path -> where the site computes and its factors are. Gates and readings are on `device`.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._current: ContextVar[GateCall | None] = ContextVar("gate_call", default=None)
        self.sites: dict[str, tuple[int, int]] = {}
        self.layer_of: dict[str, int] = {}
        self.spread = is_spread(model)
        self.devices: dict[str, torch.device] = {}
        prefix, blocks = _decoder_layers(model)
        self.layers = len(blocks)
        for index, block in enumerate(blocks):
            block.register_forward_hook(self._keep_hidden)
            for name, linear in list(block.named_modules()):
                if isinstance(linear, nn.Linear):
                    self._gate(block, name, f"{prefix}.{index}.{name}", index, linear)

    def _gate(self, block: nn.Module, name: str, path: str, layer: int, linear: nn.Linear) -> None:
        parent, _, child = name.rpartition(".")
        if self.spread:
            self.devices[path] = device_of(linear)
        setattr(block.get_submodule(parent), child, GatedLinear(linear, path, self._current))
        self.sites[path] = (linear.out_features, linear.in_features)
        self.layer_of[path] = layer

    def _keep_hidden(self, _block, _inputs, output) -> None:
        call = self._current.get()
        if call is not None and call.capture:
            hidden = output[0] if isinstance(output, tuple) else output  # [B, T, d]
            kept = hidden if call.capture == "all" else hidden[:, -1]
            call.hidden.append(kept.to(self.device) if self.spread else kept)

    @property
    def device(self) -> torch.device:
        return device_of(self.model.get_input_embeddings())

    @property
    def quantised(self) -> bool:
        """Whether a gated layer is anything but a plain dense one."""
        return any(type(layer) is not nn.Linear for layer in self._base_layers())

    @property
    def exact(self) -> bool:
        """Whether the gated layers multiply the very numbers that they hold, in the base's dtype: dense ones
        do, and bitsandbytes' nf4 on a CPU in float32."""
        return not self.quantised or exact_on_cpu(self._base_layers())

    def _base_layers(self) -> list[nn.Module]:
        return [self.model.get_submodule(path).base for path in self.sites]

    def layout(self, bank: AdapterBank, before: Layout | None = None) -> Layout:
        """The bank's place in this model. before: see Layout.of."""
        return Layout.of(bank, self.layer_of, self.layers, self.device, before)

    @contextmanager
    def under(self, call: GateCall | None) -> Iterator[None]:
        """Forward passes of this thread inside the block run under `call`; None is the bare base."""
        token = self._current.set(call)
        try:
            yield
        finally:
            self._current.reset(token)

    def __call__(self, call: GateCall | None, **inputs):
        """One forward pass under `call`, without gradients."""
        with self.under(call), torch.inference_mode():
            return self.model(**inputs)

    def body(self, call: GateCall | None, **inputs):
        """The same without the unembedding."""
        with self.under(call), torch.inference_mode():
            return self.model.base_model(**inputs)


def _decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The path and list of the decoder layers: the one ModuleList as long as the model is deep.

    An image encoder may be as deep as the decoder, and come first.
    """
    depth, own = model.config.get_text_config().num_hidden_layers, set(model.get_decoder().modules())
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and module in own
    ]
    if not found:
        raise ComposerError(
            f"This base is of the family {sanitize(model.config.model_type, 40)}, whose decoder layers were "
            "not found; use a Llama, Qwen, Gemma, Mistral or GPT-NeoX model."
        )
    return found[0]


def gates_tensor(rows: Sequence[np.ndarray] | np.ndarray, device: torch.device) -> torch.Tensor:
    """Stack per-row gates [L, N] into float32 [B, L, N] on the model's device."""
    return torch.from_numpy(np.stack(rows)).to(device, torch.float32)
