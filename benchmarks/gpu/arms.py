"""The arms of one base on a GPU: the base is loaded once, and there is one engine at a time.

What needs the base as it was loaded is first: the bare products, then PEFT, whose modules share the weights.
Then come our engines, each let go before the next one is made.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cached_property, partial
from pathlib import Path

import torch
from peft import PeftModel

from benchmarks import peft_baseline, throughput
from benchmarks.fixture import (
    ADAPTERS,
    COMPILE_TIMEOUT,
    USUAL,
    add_many,
    clone_modules,
    make_adapters,
    without_eos,
)
from benchmarks.fusion import fusion, prefill
from benchmarks.gpu.progress import Progress
from benchmarks.gpu.step_table import step_table
from benchmarks.plan import TEXT, Plan, prompt_of
from benchmarks.roofline import bare_products, copy_bandwidth, weight_bytes
from benchmarks.single_stream import ours
from benchmarks.timing import Arm, interleave
from composer.core.catalog_types import BaseSpec, Catalog
from composer.engine.engine import Engine
from composer.engine.scheduler import Scheduler
from composer.model.loading import Base, load_base

BARE_TOKENS = 32
LONG_PROMPT = 1000
# Tokens of keys and values that the bar of each group leaves memory for, beside weights and adapters.
KV_TOKENS = {"bf16": 12288, "nf4": 4096}


class Arms:
    """One base on a device. What an arm needs is made when the first one needs it.

    group: where its figures go. spec: makes the base ready on disk. folder: for the random adapters, of one
    rank. whole: False leaves out what only the 8B shape has.
    """

    def __init__(
        self,
        group: str,
        spec: Callable[[], BaseSpec],
        folder: Path,
        rank: int,
        *,
        progress: Progress,
        device: str,
        plan: Plan,
        whole: bool = True,
    ):
        self._group, self._spec, self._folder, self._rank = group, spec, folder, rank
        self._progress, self._device, self._plan = progress, torch.device(device), plan
        self._whole = whole
        self._engine: Engine | None = None

    def run(self) -> None:
        """Every step that is not measured yet; a base that cannot be loaded is noted as one fault."""
        steps = {name: work for name, work in self._steps() if not self._progress.has(self._group, name)}
        if steps and not self._progress.out_of_time:
            try:
                self.base  # noqa: B018 -- loads it
            except Exception as fault:  # of any library or of the card itself, out of memory above all
                self._progress.fail(self._group, fault)
                return
        for name, work in steps.items():
            self._progress.step(self._group, name, work)

    def close(self) -> None:
        """Let go of the base and the engine."""
        self._engine = None
        for made in ("base", "_peft_model"):
            self.__dict__.pop(made, None)
        _free(self._device)

    def _steps(self) -> Iterator[tuple[str, Callable[[], dict]]]:
        """Name and work, those that a bar is about first."""
        yield "floor", self._floor
        yield "bare", self._bare
        if self._whole:
            yield f"rows {USUAL + 1}", self._rows
            for count in (USUAL, 0, 1, ADAPTERS):
                yield f"peft {count}", partial(self._peft, count)
        yield f"ours {USUAL}", partial(self._ours, USUAL)
        if self._whole:
            yield f"fusion {USUAL}", self._fusion
            yield "users", self._users
        yield "step", self._step_table
        yield "ours 0", partial(self._ours, 0)
        if self._whole:
            yield "ours 1", partial(self._ours, 1)
            yield f"ours {ADAPTERS}", partial(self._ours, ADAPTERS)
            yield "long prompts", self._long_prompts
            for count in self._plan.loaded:
                yield f"loaded {count}", partial(self._ours, count)

    # --- what is measured on -----------------------------------------------------------------------

    @cached_property
    def base(self) -> Base:
        return without_eos(load_base(self._spec(), str(self._device)))

    @cached_property
    def adapters(self) -> tuple[Path, ...]:
        return make_adapters(self.base.model.config, self._folder, self._rank)

    @cached_property
    def _peft_model(self) -> PeftModel:
        return peft_baseline.peft_model(self.base, self.adapters)

    def _with(self, count: int) -> Engine:
        """The engine with `count` adapters, its step ready."""
        if self._engine is None or len(self._engine.names) != count:
            self._engine = None
            self.__dict__.pop("_peft_model", None)
            _free(self._device)
            spec = self.base.spec
            catalog = Catalog(".", spec.name, {spec.name: spec})
            self._engine = Engine(catalog, clone_modules(self.base))
            add_many(self._engine, self.adapters, count)
            if self._device.type == "cuda":  # on a CPU a step that is not compiled says as much here
                self._engine.warm_up().wait(COMPILE_TIMEOUT)
        return self._engine

    @cached_property
    def _prompt(self) -> str:
        return prompt_of(self.base.count_tokens, self._plan.prompt)

    # --- steps -------------------------------------------------------------------------------------

    def _arm(self, name: str, arm: Arm, rounds: int | None = None) -> dict:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        taken = interleave({name: arm}, rounds or self._plan.gpu_rounds)[name]
        return {**taken, "memory": _peak(self._device)}

    def _floor(self) -> dict:
        size, bandwidth = weight_bytes(self.base), copy_bandwidth(self._device)
        return {"bytes": size, "bandwidth": bandwidth, "seconds": size / bandwidth}

    def _bare(self) -> dict:
        walk = bare_products(self.base)
        return self._arm("bare", lambda: walk(BARE_TOKENS))

    def _rows(self) -> dict:
        """A prefill of as many rows as a KL fusion of USUAL adapters has."""
        inputs = torch.tensor([self.base.encode(self._prompt)] * (USUAL + 1), device=self._device)
        return self._arm("rows", prefill([peft_baseline.plain(self.base)], inputs))

    def _peft(self, count: int) -> dict:
        """`count` active. Few tokens: with eight a token takes a quarter of a second."""
        model, ids = peft_baseline.plain(self.base), self.base.encode(self._prompt)
        if count:
            model = self._peft_model
            peft_baseline.activate(model, [path.name for path in self.adapters[:count]])
        run = partial(peft_baseline.generate, model, ids, self._plan.peft_tokens)
        return self._arm("peft", run, rounds=2)

    def _ours(self, count: int) -> dict:
        """`count` adapters loaded; all in use, but of more than ADAPTERS only the first USUAL."""
        engine = self._with(count)
        used = count if count <= ADAPTERS else USUAL
        weights = dict.fromkeys(engine.names[:used], 1.0)
        return self._arm("ours", ours(engine, self._prompt, self._plan.gpu_tokens, weights))

    def _fusion(self) -> dict:
        return self._arm("fusion", fusion(self._with(USUAL), self.base.count_tokens, self._plan.prompt))

    def _users(self) -> dict:
        counts = {}
        engine = self._with(USUAL)
        with closing(Scheduler(engine, slots=throughput.SLOTS)) as scheduler:
            for count in self._plan.users:
                asked = throughput.prompts(self.base.count_tokens, self._plan, count)
                rounds = 1 + self._plan.user_rounds  # the first is for captures and allocations
                runs = [throughput.crowd(scheduler, engine.names, asked, self._plan) for _ in range(rounds)][
                    1:
                ]
                held = throughput.memory_held(self._device)
                counts[str(count)] = throughput.figures(runs, self._plan.user_tokens, held)
        return {"tokens": self._plan.user_tokens, "slots": throughput.SLOTS, "counts": counts}

    def _long_prompts(self) -> dict:
        """The most memory with ADAPTERS adapters and every slot reading a prompt near the page's limit."""
        engine = self._with(ADAPTERS)
        length = min(LONG_PROMPT, self.base.prompt_limit - self._plan.user_tokens)
        prompt = prompt_of(self.base.count_tokens, length, text=f"{TEXT} " * 9)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        tokens = KV_TOKENS.get(self._group, 0)
        with closing(Scheduler(engine, slots=throughput.SLOTS, kv_tokens=tokens)) as scheduler:
            throughput.crowd(scheduler, engine.names, [prompt] * max(self._plan.users), self._plan)
        return {
            "memory": _peak(self._device),
            "rows": max(self._plan.users),
            "prompt_tokens": self.base.count_tokens(prompt),
            "kv_tokens": tokens,
        }

    def _step_table(self) -> dict:
        return step_table(self._with(USUAL), self._prompt)


def _peak(device: torch.device) -> int:
    """The most bytes that tensors have held since the last reset; on a CPU what the process holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return throughput.memory_held(device)


def _free(device: torch.device) -> None:
    """Modules refer to each other in circles: what they hold is free only when they were collected."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
