"""The engine: a catalog's base, its adapters and the methods, as one object that generates."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from composer.adapters.bank import AdapterBank
from composer.adapters.catalog import load_catalog
from composer.adapters.files import weights_limit
from composer.adapters.fit.mapping import base_names
from composer.adapters.hub import Fetch
from composer.adapters.reading import Reader, refused
from composer.core.catalog_types import AdapterSpec, Attribute, Catalog, FitReport
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.names import unique_name
from composer.core.results import Fusion, GenerationResult, Step
from composer.engine.adapter_pool import AdapterPool
from composer.engine.adapter_snapshot import AdapterSnapshot
from composer.engine.execution import Executor, run_inline
from composer.engine.gate_planner import GatePlanner
from composer.engine.prompt_analyzer import PromptAnalyzer
from composer.engine.resolve import ResolvedComposition, find_method, resolve
from composer.engine.session import DecodeSession, SessionRow
from composer.methods import fuse
from composer.model.gated_model import GatedModel, gates_tensor
from composer.model.in_use import in_use
from composer.model.loading import Base, load_base
from composer.model.logit_combiner import LogitCombiner
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.batch import Batch, Failed
from composer.model.runtime.compilation import Compilation
from composer.model.runtime.finite import check_drawable
from composer.model.runtime.graphs.memory import in_words, runner_memory
from composer.model.runtime.kv_cache import LENGTH_MULTIPLE
from composer.model.runtime.native.runner import NativeRunner
from composer.model.runtime.proof import prove, verified_runner
from composer.model.runtime.runner import ModelRunner
from composer.model.runtime.scoring import token_log_probs

log = logging.getLogger(__name__)

# Whoever has resolved a composition already passes the result on.
AnyComposition = Composition | ResolvedComposition
# What `Engine.generate` takes, with the fusion where it is known.
GenerationRequest = tuple[str, AnyComposition, Sampling] | tuple[str, AnyComposition, Sampling, Fusion | None]


class Engine:
    """A base model with a bank of adapters, ready to compose. The one mutable object of the project.

    Only the bank changes over its life, by `add_adapter` and by merges. Each call brings its own weights, so
    calls from several threads do not affect each other.
    """

    def __init__(
        self, catalog: Catalog, base: Base, decode_weights: str = "same", max_adapter_mb: float | None = None
    ):
        self.catalog = catalog
        self.base = base
        self.reports: tuple[FitReport, ...] = ()
        self.end_tokens = base.end_tokens
        names = base_names(base.model)
        self.model = GatedModel(base.model)
        limit = weights_limit(max_adapter_mb)
        self._reader = Reader(
            self.model.sites, names, base.device, base.dtype, limit, devices=self.model.devices
        )
        self.runner = verified_runner(self.model, self.model.layout(AdapterBank()), base.spec, decode_weights)
        self._analyzer = PromptAnalyzer(self.model, self.runner)
        self._planner = GatePlanner(self._analyzer)
        self._pool = AdapterPool(self.model)
        self._compilation: Compilation | None = None
        self._adding = Lock()
        if decode_weights != "same" and isinstance(self.runner, NativeRunner):
            # At once: until the step is compiled, the base's own weights are read, which gives other texts.
            self.runner.compile(self._verify)

    @classmethod
    def from_catalog(
        cls,
        path: str | Path = "adapters.yaml",
        base: str | None = None,
        device: str | None = None,
        decode_weights: str = "same",
        only: Collection[str] | None = None,
        max_adapter_mb: float | None = None,
        compile_step: bool = True,
    ) -> Engine:
        """Load a base of the catalog (None: its default) and every adapter of it that fits.

        only: names of the adapters to load (None: all). Those at weight 0 cost a token nothing.
        decode_weights: what the compiled step of a CPU reads: "same", the base's weights to the bit in the
        fewest bits that hold them; "float32", the same as they are loaded; "int8", rounded where they are not
        held in as few bits, which changes the logits slightly. Prompts are read with the base's own weights.
        max_adapter_mb: see weights_limit; it does not apply to folders that the catalog names.
        compile_step: compile the decoding step in the background, as `warm_up` does.

        An adapter that cannot be loaded or does not fit is left out, with the reason in `reports`. Raises
        ComposerError when the catalog or the base cannot be used.
        """
        catalog = load_catalog(path)
        weights_limit(max_adapter_mb)  # an invalid setting is reported before the base is loaded
        engine = cls(catalog, load_base(catalog.base(base), device), decode_weights, max_adapter_mb)
        for spec in engine.base.spec.adapters:
            if only is None or spec.name in only:
                engine._add(spec, own=True)
        if compile_step:
            engine.warm_up()
        return engine

    def warm_up(self, several: bool | None = None) -> Compilation:
        """Compile the decoding step in the background, unless it is compiled or being compiled.

        Until it is ready, and wherever it cannot be compiled, decoding runs uncompiled. several: no longer
        used; one step serves any number of rows.
        """
        if several is not None:
            message = "warm_up(several=) is no longer used: one compiled step serves any number of rows"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        if self._compilation is None:
            self._compilation = Compilation(
                self.runner, self.snapshot.layout, self._verify, self._report_memory
            )
        return self._compilation

    def _report_memory(self) -> None:
        log.info("%s", in_words(self.memory()))

    def memory(self) -> dict[str, int]:
        """What memory is used by what, in bytes: the base's weights, what is packed of them, adapters, KV
        memory and graphs."""
        return runner_memory(self.model, self.runner, self.snapshot.layout)

    def _verify(self, decode: ModelRunner[Any]) -> None:
        """Raise where a compiled runner computes other logits than the base."""
        rounded = isinstance(decode, NativeRunner) and decode.weights == "int8"
        prove(self.model, decode, self.model.layout(AdapterBank()), rounded)

    # --- adapters ------------------------------------------------------------------------------

    @property
    def snapshot(self) -> AdapterSnapshot:
        """The bank of adapters and what is derived from it, as of now. Immutable."""
        return self._pool.snapshot

    @property
    def names(self) -> tuple[str, ...]:
        """The loaded adapters, in the order of every N axis."""
        return self.snapshot.names

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The catalog's attribute groups, reduced to the adapters that are loaded."""
        groups = []
        for group in self.base.spec.attributes:
            members = tuple(name for name in group.members if name in self.names)
            poles = group.poles if group.poles and set(group.poles) <= set(members) else None
            if members:
                groups.append(replace(group, members=members, poles=poles))
        return tuple(groups)

    def check(self, source: str, revision: str | None = None, fetch: Fetch = Fetch()) -> FitReport:
        """Whether the adapter in a Hub repository or folder fits this base. Downloads no weights."""
        return self._reader.check(AdapterSpec(unique_name(source, ()), source, revision), fetch)

    def download(self, source: str, revision: str | None = None, fetch: Fetch = Fetch()) -> FitReport:
        """As `check`; the weights of an adapter that fits are in the cache afterwards, and not loaded."""
        return self._reader.download(AdapterSpec(unique_name(source, ()), source, revision), fetch)

    def add_adapter(
        self,
        source: str,
        revision: str | None = None,
        name: str | None = None,
        *,
        removable: bool = False,
        fetch: Fetch = Fetch(),
    ) -> FitReport:
        """Load one more adapter from a Hub repository ("owner/name") or a folder, if it fits.

        removable: `remove_adapter` may take it away again, and `reports` has nothing of it. fetch: how it is
        downloaded. Never raises for what the source holds or how the Hub answers: the report's `ok` and
        `reasons` say what happened, and the engine keeps the adapters it has.
        """
        spec = AdapterSpec(name or unique_name(source, self.names), source, revision)
        return self._add(spec, removable=removable, fetch=fetch)

    def remove_adapter(self, name: str) -> None:
        """Take away an adapter that was added as removable. Texts that are being written keep it.

        Raises ComposerError for any other.
        """
        self._pool.remove(name)

    def _add(
        self, spec: AdapterSpec, own: bool = False, removable: bool = False, fetch: Fetch = Fetch()
    ) -> FitReport:
        with self._adding:
            report, factors = self._reader.read(spec, own, fetch)
            if report.ok:
                loaded = replace(spec, label=spec.label or spec.name)
                if removable:
                    loaded = replace(loaded, revision=report.revision)
                try:
                    self._pool.add(loaded, factors, removable)
                except ComposerError as fault:
                    report = refused(report, fault)
            log.info("%s", report)
            if not removable:
                self.reports = (*self.reports, report)
        return report

    # --- generating ----------------------------------------------------------------------------

    def resolve(
        self,
        composition: AnyComposition,
        execute: Executor = run_inline,
        among: Sequence[str] | None = None,
    ) -> ResolvedComposition:
        """Look up a composition's method, columns and weights, and materialize merged adapters.

        While the result is held, merged and removed adapters stay in the bank. execute: runs each of many
        small pieces of work where adapters have to be merged, which can take half a minute. among: the
        adapters there are for whoever asks, in the order of the result's lanes (None: all). Raises
        ComposerError for an unknown name or method, and for adapters that cannot be merged.
        """
        if isinstance(composition, ResolvedComposition):
            return composition
        opposites = [group.members for group in self.base.spec.attributes]
        return resolve(self._pool, composition, opposites, self.model, execute, among)

    def generate(
        self,
        prompt: str,
        composition: AnyComposition = Composition(),
        sampling: Sampling = Sampling(),
        *,
        fusion: Fusion | None = None,
        written: Sequence[int] = (),
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Step]:
        """Continue `prompt` under a composition, a Step per token.

        fusion: the prompt's fusion under this composition over all lanes, if it is known; it saves methods
        that need it a prefill. written: tokens of the continuation that are there already; see `row`. Closing
        the iterator, or `stop()` returning True, ends the text at once.
        Raises ComposerError for a prompt or a composition that cannot be used.
        """
        return self._run([self.row(0, prompt, composition, sampling, fusion, written)], stop)

    def generate_rows(
        self, requests: Sequence[GenerationRequest], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Step]:
        """Many generations in one batch, each with its own weights and seed. Step.row is the request's index.

        A row that fails raises when all others have ended.
        """
        return self._run([self.row(index, *request) for index, request in enumerate(requests)], stop)

    def _run(self, rows: list[SessionRow], stop: Callable[[], bool]) -> Iterator[Step]:
        longest = max(len(row.ids) + row.sampling.max_new_tokens for row in rows)
        return self._steps(self.start(sum(len(row.mixture) for row in rows), longest), rows, stop)

    def _steps(
        self, session: DecodeSession, rows: list[SessionRow], stop: Callable[[], bool]
    ) -> Iterator[Step]:
        faults: list[Exception] = []
        while (rows or session.keys) and not stop():
            outcomes = session.add(rows) if rows else session.step()
            faults += [each.fault for each in outcomes if isinstance(each, Failed)]
            yield from (each for each in outcomes if isinstance(each, Step))
            rows = []
        if faults:
            raise faults[0]

    def start(self, slots: int, max_seq_len: int) -> DecodeSession:
        """A session for rows with up to `slots` branches in all, each of up to `max_seq_len` tokens, prompt
        and continuation together."""
        length = -(-max_seq_len // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        batch = Batch(self.runner, self.snapshot.layout, self.end_tokens, slots, length)
        return DecodeSession(batch, lambda: self.snapshot, self.base.tokenizer, self.end_tokens)

    def free_memory(self) -> None:
        """Give back what a session held that has ended."""
        gc.collect()
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()

    def row(
        self,
        key: Hashable,
        prompt: str,
        composition: AnyComposition,
        sampling: Sampling,
        fusion: Fusion | None = None,
        written: Sequence[int] = (),
    ) -> SessionRow:
        """A generation ready to be added to a session: the prompt's tokens and its gates.

        fusion: as for `generate`. written: tokens of the continuation that are there already. They are read
        under the composition, and the row goes on after them as if it had sampled them itself.
        """
        prompt_ids, resolved = self.base.encode(prompt), self.resolve(composition)
        ids = [*prompt_ids, *written]
        if (room := self.base.context - len(ids)) < 1:
            raise ComposerError("The text is as long as the base can read; begin a new one.")

        def plan(ids: Sequence[int], fusion: Fusion | None = None) -> LogitMixture:
            # Without a refresh the statistics stay the prompt's, also where a schedule changes weights.
            read = ids if resolved.refresh_every else prompt_ids
            return self._planner(self.snapshot, resolved, read, fusion, len(ids) - len(prompt_ids) + 1)

        return SessionRow(
            key,
            ids,
            plan(ids, fusion),
            replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room)),
            plan,
            resolved.refresh_every,
            resolved.router(len(self.snapshot.bank.names)),
            frozenset(after - len(written) for after in resolved.schedule_changes),
            resolved=resolved,
            written=len(written),
        )

    def trace(
        self,
        prompt: str,
        composition: AnyComposition,
        sampling: Sampling,
        steps: Iterable[Step],
        fusion: Fusion | None = None,
    ) -> GenerationResult:
        """Gather a generation's Steps, and the fusion it used, into one value.

        The result's alpha is shared among the adapters with a weight, as the method shares it.
        """
        resolved = self.resolve(composition)
        if fusion is not None:
            fusion = fusion._replace(alpha=fuse(fusion.kl, resolved.weights[: fusion.kl.shape[1]] != 0).alpha)
        return GenerationResult(
            self.base.id,
            prompt,
            resolved.composition,
            sampling,
            resolved.lanes,
            self.model.layers,
            tuple(steps),
            fusion,
        )

    # --- measuring -----------------------------------------------------------------------------

    def next_token_logits(self, prompt: str, composition: AnyComposition = Composition()) -> np.ndarray:
        """The logits of the token after `prompt`, before any sampling filter. float32 [V].

        With all weights 0 they equal, bit for bit, the bare base's `model(ids).logits[0, -1]`.
        """
        ids, resolved = self.base.encode(prompt), self.resolve(composition)
        snapshot, device = self.snapshot, self.base.device
        mixture = self._planner(snapshot, resolved, ids)
        if mixture.gates.any():
            routes = [resolved.router(len(snapshot.bank.names))] * len(mixture)
            layout, gates, routes = in_use(snapshot.layout, list(mixture.gates), routes)
            read = self.runner.read(layout, gates_tensor(gates, device), [ids] * len(mixture), routes=routes)
            assert read.logits is not None
            return check_drawable(LogitCombiner([mixture], device)(read.logits))[0].float().cpu().numpy()
        # Every position is unembedded, as a plain forward pass does: a product of another shape rounds
        # differently.
        logits = self.model(None, input_ids=torch.tensor([ids], device=device)).logits  # [1, T, V]
        return logits[0, -1].float().cpu().numpy()

    def fusion(
        self,
        prompt: str,
        names: Sequence[str] | None = None,
        norm: bool = True,
        tokens: str = "last",
        *,
        composition: AnyComposition | None = None,
    ) -> Fusion:
        """KL fusion weights of a prompt (qa-FLoRA, arXiv 2512.11366), from one prefill of N+1 rows.

        For each layer l and adapter i, with h the base's hidden state after layer l at the prompt's last
        token and h_i the one with adapter i alone at weight 1:

            kl[l, i] = KL(softmax(lens(h)) || softmax(lens(h_i)));  alpha[l, i] = kl[l, i] / sum_j kl[l, j]

        names: the adapters, in the order of N (None: all). norm: the lens applies the final norm before the
        unembedding. tokens: "all" takes the mean of kl over the prompt's tokens. composition: the fusion that
        it is continued with: its norm, its tokens and its calibrated adapters take the place of those
        given; a method that uses no fusion only gives its norm. Returns kl [L, N] in nats and alpha [L, N].
        """
        snapshot = self.snapshot
        names = snapshot.names if names is None else names
        resolved, calibrated = None, False
        if composition is not None:
            asked = composition if isinstance(composition, Composition) else composition.composition
            norm, tokens = asked.norm, "last"
            if find_method(asked).needs_kl:
                resolved, tokens = self.resolve(composition), asked.tokens
                calibrated = resolved.calibrated
            elif isinstance(composition, ResolvedComposition) and not composition.calibrated:
                resolved = composition  # its adapters may have been removed by now
        if resolved is None:
            columns = [snapshot.column(name) for name in names]
        else:
            columns = [int(resolved.columns[resolved.lanes.index(name)]) for name in names]
        kl = self._analyzer.divergence(snapshot, self.base.encode(prompt), columns, norm, tokens == "all")
        return fuse(kl)._replace(norm=norm, tokens=tokens, calibrated=calibrated)

    def log_probs(
        self, texts: Sequence[str], composition: AnyComposition = Composition()
    ) -> list[np.ndarray]:
        """Log-probability in nats of every token of each text after its first; float32 [T - 1] each."""
        encoded = [self.base.encode(text, self.base.context) for text in texts]
        resolved, snapshot = self.resolve(composition), self.snapshot
        mixtures = [self._planner(snapshot, resolved, ids) for ids in encoded]
        router = resolved.router(len(snapshot.bank.names))
        return token_log_probs(self.model, snapshot.layout, encoded, mixtures, router)
