"""The facade: a catalog's base, its bank of adapters and the methods, as one object that generates Steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from composer.adapters.bank import AdapterBank
from composer.adapters.catalog import load_catalog
from composer.adapters.files import weights_limit
from composer.adapters.fit.mapping import base_names
from composer.adapters.reading import Reader, refused
from composer.core.catalog_types import AdapterSpec, Attribute, BaseSpec, Catalog, FitReport
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.names import unique_name
from composer.core.results import Fusion, GenerationResult, Step
from composer.engine.adapter_pool import AdapterPool
from composer.engine.adapter_snapshot import AdapterSnapshot
from composer.engine.casting import ResolvedComposition, cast, makes, method_of, names_of, weights_of
from composer.engine.gating import GatePlanner
from composer.engine.materialize import Executor, run_inline
from composer.engine.prompt_stats import PromptAnalyzer
from composer.engine.session import DecodeSession
from composer.methods import fuse
from composer.model.gated_model import GatedModel, gates_tensor
from composer.model.loading import Base, load_base
from composer.model.logit_combiner import LogitCombiner
from composer.model.logit_mixture import LogitMixture
from composer.model.runtime.batch import Batch, BatchRow, Failed
from composer.model.runtime.compilation import Compilation
from composer.model.runtime.finite import check_drawable
from composer.model.runtime.kv_cache import LENGTH_MULTIPLE
from composer.model.runtime.proof import verified_runner
from composer.model.runtime.scoring import token_log_probs
from composer.model.tokens import encode_prompt

log = logging.getLogger(__name__)

PROMPT_TOKENS = 1024

GenerationRequest = tuple[str, Composition, Sampling]


class Engine:
    """A base model with a bank of adapters, ready to compose. The one mutable object of the project.

    What changes over its life is the bank, and only by `add_adapter`; each call brings its own weights,
    so calls from several threads do not disturb each other.
    """

    def __init__(
        self, catalog: Catalog, base: Base, decode_weights: str = "same", max_adapter_mb: float | None = None
    ):
        self.catalog = catalog
        self.base = base
        self.reports: tuple[FitReport, ...] = ()
        names = base_names(base.model)
        self._model = GatedModel(base.model)
        self._reader = Reader(
            self._model.sites, names, base.device, base.dtype, weights_limit(max_adapter_mb)
        )
        self._runner = verified_runner(
            self._model, self._model.layout(AdapterBank()), base.spec, decode_weights
        )
        self._analyzer = PromptAnalyzer(self._model, self._runner)
        self._planner = GatePlanner(self._model.layers, base.spec, self._analyzer)
        self._pool = AdapterPool(self._model, self._on_bank_change)
        self._warm: Compilation | None = None
        self._several = False
        self._adding = Lock()
        self._ends = base.end_tokens

    @classmethod
    def from_catalog(
        cls,
        path: str | Path = "adapters.yaml",
        base: str | None = None,
        device: str | None = None,
        decode_weights: str = "same",
        only: Collection[str] | None = None,
        max_adapter_mb: float | None = None,
    ) -> Engine:
        """Load a base of the catalog (None: its default) and every adapter of it that fits.

        only: names of the adapters to load (None: all); each one loaded costs every token a little.
        decode_weights: "same" as the base's, or "int8": decoding reads weight-only int8, which is quicker
        on a CPU and changes the logits a little; prompts are still read with the base's own weights.
        max_adapter_mb: see weights_limit; for what lies in folders that the catalog names there is none.

        An adapter that cannot be had or does not fit is left out, with the reason in `reports`. Raises
        ComposerError when the catalog or the base cannot be used.
        """
        catalog = load_catalog(path)
        weights_limit(max_adapter_mb)  # a setting that cannot be read is told before the base is loaded
        engine = cls(catalog, load_base(catalog.base(base), device), decode_weights, max_adapter_mb)
        for spec in engine.spec.adapters:
            if only is None or spec.name in only:
                engine._add(spec, own=True)
        return engine

    def warm_up(self, several: bool = True) -> Compilation:
        """Compile the decoding step in the background, for one row and, with `several`, for batches.

        Again when adapters are added. Nobody waits for it: until it is there, and wherever it cannot be,
        decoding runs uncompiled.
        """
        self._warm, self._several = Compilation(self._runner, self.snapshot.layout, several), several
        return self._warm

    def _on_bank_change(self) -> None:
        if self._warm is not None:
            self.warm_up(self._several)

    # --- what is here --------------------------------------------------------------------------

    @property
    def spec(self) -> BaseSpec:
        return self.base.spec

    @property
    def bank(self) -> AdapterBank:
        """All loaded adapters' factors. Immutable: adding an adapter puts another bank in its place."""
        return self.snapshot.bank

    @property
    def adapters(self) -> tuple[AdapterSpec, ...]:
        """What the catalog, or whoever added them, says of the adapters in `names`."""
        return self.snapshot.adapters

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that are loaded, in the order of every N axis."""
        return self.snapshot.names

    @property
    def layers(self) -> int:
        return self._model.layers

    @property
    def model(self) -> GatedModel:
        """The base with a gate at each site, for measurements that need passes of their own."""
        return self._model

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The catalog's attribute groups, reduced to the adapters that are loaded."""
        groups = []
        for group in self.spec.attributes:
            members = tuple(name for name in group.members if name in self.names)
            poles = group.poles if group.poles and set(group.poles) <= set(members) else None
            if members:
                groups.append(replace(group, members=members, poles=poles))
        return tuple(groups)

    @property
    def prompt_limit(self) -> int:
        """Longest prompt in tokens."""
        return min(PROMPT_TOKENS, self.base.context - 1)

    # --- adapters ------------------------------------------------------------------------------

    def check(self, source: str, revision: str | None = None) -> FitReport:
        """Whether the adapter in a Hub repo or folder fits this base; downloads no weights."""
        return self._reader.check(AdapterSpec(unique_name(source, self.names), source, revision))

    def add_adapter(self, source: str, revision: str | None = None, name: str | None = None) -> FitReport:
        """Load one more adapter from a Hub repo ("owner/name") or a folder, if it fits.

        Never raises for what the source holds or how the Hub answers: the report's `ok` and `reasons` say
        what happened, and the engine goes on with the adapters it has.
        """
        return self._add(AdapterSpec(name or unique_name(source, self.names), source, revision))

    def _add(self, spec: AdapterSpec, own: bool = False) -> FitReport:
        with self._adding:
            report, factors = self._reader.read(spec, own)
            if report.ok:
                try:
                    self._pool.add(replace(spec, label=spec.label or spec.name), factors)
                except ComposerError as fault:
                    report = refused(report, fault)
            log.info("%s", report)
            self.reports = (*self.reports, report)
        return report

    # --- generating ----------------------------------------------------------------------------

    def generate(
        self,
        prompt: str,
        composition: Composition = Composition(),
        sampling: Sampling = Sampling(),
        *,
        fusion: Fusion | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Step]:
        """Continue `prompt` under a composition, a Step per token.

        fusion: what `fusion_of` says of this prompt and composition over all adapters, if the caller has it
        already; saves the methods that need it a prefill. Closing the iterator, or `stop()` turning true,
        ends it at once. Raises ComposerError for a prompt or a composition that cannot be used.
        """
        return self._run([(prompt, composition, sampling)], fusion, stop)

    def generate_rows(
        self, rows: Sequence[GenerationRequest], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Step]:
        """Many generations in one batch; Step.row tells which. Each row has its own weights and seed.

        A row that cannot go on raises when all the others have ended.
        """
        return self._run(list(rows), None, stop)

    def _run(
        self, rows: list[GenerationRequest], fusion: Fusion | None, stop: Callable[[], bool]
    ) -> Iterator[Step]:
        made = [self.row(place, *row, fusion) for place, row in enumerate(rows)]
        room = max(len(row.ids) + row.sampling.max_new_tokens for row in made)
        return self._steps(self.start(sum(len(row.mixture) for row in made), room), made, stop)

    def _steps(self, run: DecodeSession, rows: list[BatchRow], stop: Callable[[], bool]) -> Iterator[Step]:
        faults: list[Exception] = []
        while (rows or run.keys) and not stop():
            outcomes = run.join(rows) if rows else run.step()
            faults += [each.fault for each in outcomes if isinstance(each, Failed)]
            yield from (each for each in outcomes if isinstance(each, Step))
            rows = []
        if faults:
            raise faults[0]

    @property
    def snapshot(self) -> AdapterSnapshot:
        """The adapters as they are now. Immutable."""
        return self._pool.snapshot

    def start(self, slots: int, room: int) -> DecodeSession:
        """A run for rows of up to `slots` voices in all, of up to `room` tokens each, prompt and continuation
        together."""
        batch = Batch(
            self._runner,
            self.snapshot.layout,
            self._ends,
            slots,
            -(-room // LENGTH_MULTIPLE) * LENGTH_MULTIPLE,
        )
        return DecodeSession(batch, lambda: self.snapshot, self.base.tokenizer, self._ends)

    def row(
        self,
        key: Hashable,
        prompt: str,
        composition: Composition,
        sampling: Sampling,
        fusion: Fusion | None = None,
    ) -> BatchRow:
        """A generation ready to join a run: the prompt's tokens, its voices, and in `cast` whose they are."""
        ids = self._encode(prompt)
        own = self.cast(composition)
        every = composition.live if "live" in method_of(composition).parameters else 0

        def mixture(ids: Sequence[int], fusion: Fusion | None = None) -> LogitMixture:
            return self._planner.mixture(self.snapshot, own, composition, ids, fusion)

        route = self._planner.route(self.snapshot, own, composition)
        limited = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, self.base.context - len(ids)))
        return BatchRow(key, ids, mixture(ids, fusion), limited, mixture, every, route, own)

    def cast(self, composition: Composition, through: Executor = run_inline) -> ResolvedComposition:
        """Who plays in a composition; while it is held, what was made for it stays made.

        through: has each of many small pieces of work done, where adapters have to be made first, which
        can take half a minute. Raises ComposerError for what cannot be composed.
        """
        return cast(self._pool, composition, through)

    def makes(self, composition: Composition) -> bool:
        """Whether `cast` has adapters to make. Raises ComposerError for a method that is not here."""
        return makes(composition)

    def names_of(self, composition: Composition, names: Sequence[str] | None = None) -> tuple[str, ...]:
        """The N axis of its contributions: `names`, and after them the merged adapter if there is one, which
        is called by its method, in brackets where an adapter is called so.

        names: the adapters that somebody knows of (None: all that are loaded).
        """
        return names_of(self.names if names is None else names, composition)

    def reads_prompt(
        self, composition: Composition, own: ResolvedComposition, fusion: Fusion | None = None
    ) -> bool:
        """Whether its row takes a prefill of its own. own: its cast. fusion: as for `row`."""
        return bool(method_of(composition).prompt_stats) and not self._planner.knows(own, composition, fusion)

    def trace(
        self,
        prompt: str,
        composition: Composition,
        sampling: Sampling,
        steps: Iterable[Step],
        fusion: Fusion | None = None,
    ) -> GenerationResult:
        """Gather a generation's Steps, and the fusion it used, into one value."""
        if fusion is not None:
            fusion = fuse(fusion.kl, weights_of(self.snapshot, composition) != 0)
        names = self.names_of(composition)
        return GenerationResult(
            self.base.id, prompt, composition, sampling, names, self.layers, tuple(steps), fusion
        )

    # --- reading -------------------------------------------------------------------------------

    def next_token_logits(self, prompt: str, composition: Composition = Composition()) -> np.ndarray:
        """The logits of the token after `prompt`, before any sampling filter. float32 [V].

        With all weights 0 they are, bit for bit, what the bare base's `model(ids).logits[0, -1]` holds.
        """
        ids, own = self._encode(prompt), self.cast(composition)
        snapshot, device = self.snapshot, self.base.device
        mixture = self._planner.mixture(snapshot, own, composition, ids)
        if mixture.gates.any():
            gates, routes = (
                gates_tensor(mixture.gates, device),
                [self._planner.route(snapshot, own, composition)],
            )
            read = self._runner.read(
                snapshot.layout, gates, [ids] * len(mixture), routes=routes * len(mixture)
            )
            return check_drawable(LogitCombiner([mixture], device)(read.logits))[0].float().cpu().numpy()
        # As a plain pass does it, every position unembedded: a product of another shape rounds otherwise.
        logits = self._model(None, input_ids=torch.tensor([ids], device=device)).logits  # [1, T, V]
        return logits[0, -1].float().cpu().numpy()

    def fusion(
        self,
        prompt: str,
        names: Sequence[str] | None = None,
        norm: bool = True,
        tokens: str = "last",
        own: ResolvedComposition | None = None,
    ) -> Fusion:
        """KL fusion weights of a prompt (qa-FLoRA, arXiv 2512.11366): one prefill of N+1 rows.

        For each layer l and adapter i, with h the base's hidden state after layer l at the prompt's last
        token and h_i the one with adapter i alone at weight 1:

            kl[l, i] = KL(softmax(lens(h)) || softmax(lens(h_i)));  alpha[l, i] = kl[l, i] / sum_j kl[l, j]

        names: which adapters, in which order (None: all). norm: the lens applies the final norm before the
        unembedding. tokens: "all" takes the mean of kl over the prompt's. own: a cast whose calibrated
        adapters are meant. Returns Fusion: kl [L, N] in nats, alpha [L, N].
        """
        snapshot, made = self.snapshot, own is not None and bool(own.leases)
        names = snapshot.names if names is None else names
        columns = [
            int(own.columns[own.names.index(name)]) if made else snapshot.column(name) for name in names
        ]
        kl = self._analyzer.divergence(snapshot, self._encode(prompt), columns, norm, tokens == "all")
        return fuse(kl)._replace(norm=norm, tokens=tokens, calibrated=made)

    def fusion_of(
        self,
        prompt: str,
        composition: Composition,
        names: Sequence[str] | None = None,
        own: ResolvedComposition | None = None,
    ) -> Fusion:
        """The fusion weights that a composition is continued with, or, if by none, the prompt's own.

        own: its cast, if the caller holds it. Raises as `cast` and `generate` do.
        """
        method = method_of(composition)
        if not method.needs_kl:
            return self.fusion(prompt, names, composition.norm)
        own = own or self.cast(composition)
        return self.fusion(prompt, names, composition.norm, composition.tokens, own)

    def log_probs(self, texts: Sequence[str], composition: Composition = Composition()) -> list[np.ndarray]:
        """Log-probability in nats of every token of each text after its first; float32 [T - 1] each."""
        encoded = [self._encode(text, limit=self.base.context) for text in texts]
        own, snapshot = self.cast(composition), self.snapshot
        mixture = [self._planner.mixture(snapshot, own, composition, ids) for ids in encoded]
        route = self._planner.route(snapshot, own, composition)
        return token_log_probs(self._model, snapshot.layout, encoded, mixture, route)

    def count_tokens(self, text: str) -> int:
        """How many tokens the text is as a prompt, the chat template's own included."""
        return len(encode_prompt(self.base.tokenizer, text, self.spec.prompting))

    def check_prompt(self, prompt: str) -> None:
        """Raise the ComposerError that generating from this prompt would raise."""
        self._encode(prompt)

    # --- inside --------------------------------------------------------------------------------

    def _encode(self, prompt: str, limit: int | None = None) -> list[int]:
        return self.base.read_prompt(prompt, limit or self.prompt_limit)
