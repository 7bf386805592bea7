"""Decoding on a CPU with one call of compiled code a token, and reading short prompts with one."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import NamedTuple

import torch

from composer.core.threads import spins_for_long
from composer.model.gated_model import GatedModel
from composer.model.rank_layout import GateTelemetry, Layout
from composer.model.runtime.kv_cache import LENGTH_MULTIPLE, KVCache
from composer.model.runtime.llama.layer_table import DecodePlan
from composer.model.runtime.llama.runner import LlamaRunner
from composer.model.runtime.native import structures as c
from composer.model.runtime.native.routing import RouterTable
from composer.model.runtime.native.tables import BaseTable, StepTable
from composer.model.runtime.native.team import Team, team
from composer.model.runtime.prefill import PackedPrompts, PrefillOutput
from composer.model.runtime.runner import Inputs, ModelRunner
from composer.model.runtime.token_routing import RouterConfig, TokenRouter

log = logging.getLogger(__name__)

# Tables of sets of adapters that are kept; each has a copy of their factors.
KEPT_TABLES = 4
# Bytes of all tokens' widest states up to which the compiled step reads prompts: what a core's own cache
# holds. Beyond them a BLAS multiplies faster, which goes block by block.
NEAR = 2**20


@dataclass(frozen=True)
class NativePlan:
    """What a batch decodes with. `eager` is what the pass without compiled code decodes with."""

    layout: Layout
    gates: torch.Tensor  # [B, L, N]
    routes: Sequence[RouterConfig | None]
    inner: LlamaRunner

    @cached_property
    def router(self) -> TokenRouter | None:
        """How tokens share out their gates; None where no row is token-routed."""
        return TokenRouter.of(self.layout, self.routes)

    @cached_property
    def router_table(self) -> RouterTable | None:
        """The same for a token of each row."""
        return self.router and RouterTable.of(self.router)

    @cached_property
    def scales(self) -> torch.Tensor:
        return self.layout.scales(self.gates).float().contiguous()  # [B, Z]

    @cached_property
    def eager(self) -> DecodePlan:
        return self.inner.prepare(self.layout, self.gates, self.routes)


class NativeRunner:
    """LlamaRunner whose decoding step is compiled C++; see composer.model.runtime.runner.ModelRunner.

    Until `compile` is through the step runs as LlamaRunner's. weights: what the compiled step reads, "same"
    as the base's or "int8". Prompts are read with the base's own weights.
    """

    def __init__(self, inner: LlamaRunner, weights: str = "same"):
        self.inner, self.weights = inner, weights
        self.step: NativeStep | None = None

    @staticmethod
    def fits(model: GatedModel) -> bool:
        """Whether the compiled step multiplies with the base's weights."""
        return NativeRunner.why_not(model) is None

    @staticmethod
    def why_not(model: GatedModel) -> str | None:
        """Why the compiled step does not multiply with the base's weights, as the end of a sentence.

        None where it does: in float32 on a CPU, with layers that are dense or all in nf4.
        """
        if model.device.type != "cpu":
            return f"it is on {model.device.type}, not on a CPU"
        if model.model.dtype != torch.float32:
            return f"it computes in {str(model.model.dtype).removeprefix('torch.')}, not in float32"
        if not model.exact:
            return "its layers are quantised otherwise than in nf4 with whole blocks in a row"
        return None

    def compile(
        self,
        verify: Callable[[ModelRunner], object] = lambda made: None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """Compile the step and decode with it from then on. Returns when it is through.

        verify: is given a runner that decodes with it, and raises where that is wrong. check: called now and
        then; what it raises ends the work. Raises CompilerError without a C++ compiler, and what these two
        raise; decoding then goes on as before.
        """
        step = NativeStep(team(), self.inner, BaseTable.of(self.inner, self.weights, check))
        made = NativeRunner(self.inner, self.weights)
        made.step = step
        verify(made)
        self.step = step
        if spins_for_long():
            log.warning(
                "torch was imported before composer, so its threads keep the cores that decoding needs and "
                "texts come at half the speed: import composer first, or set GOMP_SPINCOUNT=2500"
            )
        log.info("the decoding step is compiled; it reads %.0f MB of weights a token", step.bytes / 1e6)

    @property
    def compiled(self) -> bool:
        return self.step is not None

    def read(
        self,
        layout: Layout,
        gates: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        unembed: bool = True,
        every: bool = False,
        routes: Sequence[RouterConfig | None] = (),
    ) -> PrefillOutput:
        step, tokens = self.step, sum(map(len, prompts))
        if step is None or self.weights == "int8" or 4 * tokens * step.widest > NEAR:
            return self.inner.read(layout, gates, prompts, unembed, every, routes)
        return step.read(self.prepare(layout, gates, routes), prompts, unembed, every)

    def prepare(
        self, layout: Layout, gates: torch.Tensor, routes: Sequence[RouterConfig | None] = ()
    ) -> NativePlan:
        return NativePlan(layout, gates, routes, self.inner)

    def trial(self) -> LlamaRunner:
        return self.inner.trial()

    def __call__(
        self, plan: NativePlan, inputs: Inputs, cache: KVCache
    ) -> tuple[torch.Tensor, GateTelemetry | None]:
        if self.step is None:
            return self.inner(plan.eager, inputs, cache)
        return self.step(plan, inputs, cache)


class _Tokens(NamedTuple):
    """M tokens of a step, each [M] int64, and those whose logits are wanted, [O] int64."""

    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    last: torch.Tensor


class NativeStep:
    """The compiled step of one base. Holds its weights in their storages, and the last sets of adapters."""

    def __init__(self, team: Team, runner: LlamaRunner, base: BaseTable):
        self._team, self._runner, self._base = team, runner, base
        self._tables: OrderedDict[Layout, StepTable] = OrderedDict()
        self._ropes: dict[int, torch.Tensor] = {}
        self._changing = Lock()

    @property
    def bytes(self) -> int:
        """Of the base's weights that a token reads."""
        return self._base.bytes

    @property
    def widest(self) -> int:
        """Numbers of a token's widest state."""
        model = self._base.model
        return max(model.hidden, model.inner, model.heads * model.width)

    def __call__(
        self, plan: NativePlan, inputs: Inputs, cache: KVCache
    ) -> tuple[torch.Tensor, GateTelemetry | None]:
        every = torch.arange(len(inputs.tokens))
        tokens = _Tokens(inputs.tokens, inputs.positions, every, every)
        logits, coded, energy, contribution = self._run(
            plan.layout, tokens, plan.scales, cache.buffers, cache.max_seq_len, plan.router_table
        )
        telemetry = GateTelemetry(coded, energy, plan.layout, contribution)
        return logits, telemetry if plan.layout.spans else None

    def read(
        self, plan: NativePlan, prompts: Sequence[Sequence[int]], unembed: bool, every: bool
    ) -> PrefillOutput:
        """See ModelRunner.read. Each prompt's keys and values are a slot of their own."""
        pack, base = PackedPrompts.of(prompts, plan.scales.device), self._base.model
        tokens = _Tokens(pack.tokens, pack.positions, pack.row, pack.last if unembed else pack.last[:0])
        shape = len(prompts), 2 * base.kv_heads, pack.width, base.width
        past = [torch.zeros(shape) for _ in range(base.layers)]  # of [B, 2K, T, D]
        hidden = torch.empty(base.layers, len(pack.tokens), base.hidden)  # [L, M, d]
        router = plan.router and RouterTable.of(plan.router, pack.row)
        logits, coded, energy, contribution = self._run(
            plan.layout, tokens, plan.scales[pack.row], past, pack.width, router, hidden
        )
        telemetry = GateTelemetry(coded[pack.last], energy[pack.last], plan.layout, contribution[pack.last])
        return PrefillOutput(
            logits if unembed else None,
            telemetry if plan.layout.spans else None,
            [pack.padded(each) if every else each[pack.last] for each in hidden],
            past,
            [0] * len(prompts),
        )

    def _run(
        self,
        layout: Layout,
        tokens: _Tokens,
        scales: torch.Tensor,  # [M, Z]
        cache: Sequence[torch.Tensor],  # per layer [slots, 2K, length, D]
        length: int,
        router: RouterTable | None,
        hidden: torch.Tensor | None = None,  # [L, M, d], to be filled
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits [O, V], z [M, Z], energy [M, L] and contributions [M, L, N]."""
        count, table, ranks = len(tokens.ids), self._table(layout), scales.shape[1]
        ropes = self._rope_tables(length)  # [rotations, 2, its length, D]
        logits = torch.empty(len(tokens.last), self._base.vocabulary)  # [O, V]
        coded, energy = torch.empty(count, ranks), torch.empty(count, len(cache))  # [M, Z], [M, L]
        contribution = torch.empty(count, len(cache), len(layout.bank.names))  # [M, L, N]
        step = c.Step(
            count,
            length,
            ropes.shape[2],
            ranks,
            contribution.shape[2],
            len(tokens.last),
            tokens.ids.data_ptr(),
            tokens.positions.data_ptr(),
            tokens.slots.data_ptr(),
            tokens.last.data_ptr(),
            c.addresses(cache),
            c.addresses(list(ropes)),
            scales.data_ptr(),
            coded.data_ptr(),
            energy.data_ptr(),
            contribution.data_ptr(),
            logits.data_ptr(),
            None if hidden is None else hidden.data_ptr(),
            router.pointer if router else None,
        )
        self._team.decode(table.model, step)
        return logits, coded, energy, contribution

    def _table(self, layout: Layout) -> StepTable:
        with self._changing:
            if layout not in self._tables:
                self._tables[layout] = StepTable.of(self._base, layout)
            self._tables.move_to_end(layout)
            while len(self._tables) > KEPT_TABLES:
                self._tables.popitem(last=False)
            return self._tables[layout]

    def _rope_tables(self, length: int) -> torch.Tensor:
        """[rotations, 2, at least length, D]: cos and signed sin of each position."""
        length = -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        if length not in self._ropes:
            whole = self._runner.rope_table(length)[:, :length, :, 0]  # [2, length, rotations, D]
            self._ropes[length] = whole.permute(2, 0, 1, 3).float().contiguous()
        return self._ropes[length]
