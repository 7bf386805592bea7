"""A row's fault is its own: overflow, cancellation and failure beside rows that must not notice."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from composer import Composition, Sampling
from composer.adapters.balance import LONGEST, balanced
from composer.core.errors import ComposerError
from composer.engine.scheduler import Scheduler
from composer.engine.session import DecodeSession
from composer.model.runtime.batch import Batch, Failed
from composer.model.runtime.compilation import Compilation
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.runtime.runner import TransformersRunner
from tests.tools import tiny

# What is done to the tensors of a fitting adapter, by the end of the name of those that it is done to.
LOUD = {
    "loud": {"lora_A.weight": 1e30, "lora_B.weight": 1e30},
    "loud-a": {"lora_A.weight": 3e37},
    "loud-b": {"lora_B.weight": 1e37},
    # Keys that are infinite where the query is not: words still come, and inf stays in the cache.
    "loud-keys": {"k_proj.lora_B.weight": 1e36, "query_key_value.lora_B.weight": 1e36},
    "loud-values": {"v_proj.lora_B.weight": 1e38, "query_key_value.lora_B.weight": 1e38},
}


def loud(folder, family: str, changes: dict[str, float]):
    """An adapter whose numbers are finite and far too large."""
    tiny.adapter(folder, family, seed=len(changes) + 3, r=3)
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        factor = next((by for end, by in changes.items() if name.endswith(end)), 1.0)
        tensors[name] = (tensor.clamp(-1, 1) * factor).contiguous()
    save_file(tensors, file)
    return folder


def make_engine(folder, family: str):
    folders = tiny.three_unlike(folder, family)
    folders |= {name: loud(folder / name, family, changes) for name, changes in LOUD.items()}
    return tiny.engine(family, folders)


def pipelined(engine, slots: int, max_seq_len: int) -> DecodeSession:
    """As Engine.start, with passes that start ahead of the host as on a GPU."""
    batch = Batch(engine.runner, engine.snapshot.layout, engine.end_tokens, slots, max_seq_len, True)
    return DecodeSession(batch, lambda: engine.snapshot, engine.base.tokenizer, engine.end_tokens)


PASSES = ("plain", "compiled", "graphs", "gemma3", "modules", "neox", "pipelined")


@pytest.fixture(scope="module", params=PASSES)
def engine(request, tmp_path_factory):
    family = {"gemma3": "gemma3", "modules": "gemma3", "neox": "gpt_neox"}.get(request.param, "llama")
    made = make_engine(tmp_path_factory.mktemp(request.param), family)
    made.end_tokens = frozenset()  # a text must not end early, or it is in nobody's company
    if request.param == "compiled":
        assert Compilation(made.runner, made.snapshot.layout).wait(300)
    if request.param == "modules":
        made.runner = TransformersRunner(made.model)
    if request.param == "graphs":
        made.runner = CudaGraphRunner(made.runner.inner, lambda run: run)
    if request.param == "pipelined":
        made.start = partial(pipelined, made)
    assert isinstance(made.runner, TransformersRunner) == (request.param in ("modules", "neox"))
    return made


HEALTHY = (
    Composition(),
    Composition({"plain": 1}),
    Composition({"rslora": 0.5, "patterned": -1}),
    Composition({"plain": 1, "rslora": 1}, method="logits"),
    Composition({"plain": 1, "rslora": 1}, method="kl", live=3),
    Composition({"plain": 1, "rslora": 1}, method="arrow"),
)
SICK = (
    *(Composition({name: weight}, strength=2) for name in LOUD for weight in (1, -8)),
    Composition({"plain": 8, "loud-b": 8}, strength=4, bands=(1, 2, 4)),
    Composition({"plain": 1, "loud": 1}, method="logits"),
)


class Alone:
    """What a healthy request is told when nobody else is there; remembered."""

    def __init__(self):
        self._known: dict = {}

    def __call__(self, engine, place: int, length: int) -> list[int]:
        key = id(engine), place
        if key not in self._known:
            steps = engine.generate(
                "Alone " + "x" * place, HEALTHY[place], Sampling(max_new_tokens=16, seed=place)
            )
            self._known[key] = [step.token for step in steps]
        return self._known[key][:length]


alone = Alone()

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("healthy"), st.integers(0, len(HEALTHY) - 1), st.integers(1, 16)),
        st.tuples(st.just("sick"), st.integers(0, len(SICK) - 1), st.integers(1, 40)),
        st.tuples(
            st.sampled_from(["refresh_gates", "push", "leave", "step"]), st.integers(0, 9), st.integers(1, 9)
        ),
    ),
    min_size=4,
    max_size=14,
)


class Company:
    """A run that rows join and leave by chance, with what every row was told."""

    SLOTS = 8

    def __init__(self, engine):
        self.engine, self.run = engine, engine.start(self.SLOTS, 128)
        self.result: dict[tuple, list[int]] = {}
        self.mixture: dict[tuple, int] = {}
        self.failed: dict[tuple, Exception] = {}

    def add(
        self, key: tuple, prompt: str, composition: Composition, sampling: Sampling, fault: str = ""
    ) -> None:
        row = self.engine.row(key, prompt, composition, sampling)
        if sum(self.mixture.values()) + len(row.mixture) > self.SLOTS:
            return
        if fault == "refresh_gates":
            row.every = 2
            row.refresh_gates = lambda ids: 1 / 0
        self.result[key], self.mixture[key] = [], len(row.mixture)
        self.hear(self.run.add([row]))
        if fault == "push" and key in self.mixture:
            self.run._rows[key][1].push = lambda token, last: 1 / 0

    def hear(self, outcomes) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Failed):
                self.failed[outcome.row] = outcome.fault
            else:
                self.result[outcome.row].append(outcome.token)
                assert np.isfinite(outcome.contribution).all()
            if isinstance(outcome, Failed) or outcome.finish:
                del self.mixture[outcome.row]

    def remove(self, number: int) -> None:
        if self.mixture:
            key = list(self.mixture)[number % len(self.mixture)]
            self.run.remove([key])
            del self.mixture[key]

    def check_slots(self) -> None:
        """What nobody's text stands in is zeros."""
        seats = self.run._batch._entries
        for buffer in self.run._batch._cache.buffers:
            for slot in range(self.SLOTS):
                used = len(seats[slot][0].ids) if slot < len(seats) else 1  # 1: a graph's spare rows
                assert not buffer[slot, :, used:].any()
                assert slot < len(seats) or buffer[slot, :, 0].isfinite().all()


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(events=EVENTS)
def test_healthy_rows_get_the_same_text_in_any_batch(engine, events):
    company = Company(engine)
    for number, (kind, which, length) in enumerate(events):
        sampling = Sampling(max_new_tokens=length, seed=which)
        if kind == "healthy":
            company.add((kind, which, number), "Alone " + "x" * which, HEALTHY[which], sampling)
        elif kind == "sick":
            company.add((kind, which, number), "Sick " + "y" * which, SICK[which], sampling)
        elif kind in ("refresh_gates", "push"):
            company.add((kind, which, number), "Broken", Composition(), Sampling(max_new_tokens=12), kind)
        elif kind == "leave":
            company.remove(which)
        else:
            for _ in range(length):
                company.hear(company.run.step())
        company.check_slots()
    while company.mixture:
        company.hear(company.run.step())
    company.check_slots()
    for (kind, which, number), tokens in company.result.items():
        if kind == "healthy":
            assert tokens == alone(engine, which, len(tokens))
            assert (kind, which, number) not in company.failed
    assert all(isinstance(fault, ComposerError | ZeroDivisionError) for fault in company.failed.values())


@pytest.mark.parametrize("name", ["loud", "loud-a", "loud-b", "loud-values"])
def test_numbers_that_overflow_end_the_text_with_a_sentence(engine, name):
    composition = Composition({name: 8}, strength=4)
    with pytest.raises(ComposerError, match="overflowed"):
        list(engine.generate("Hello", composition, Sampling(max_new_tokens=5)))
    with pytest.raises(ComposerError, match="overflowed"):
        engine.next_token_logits("Hello", composition)
    with pytest.raises(ComposerError, match="overflowed"):
        engine.log_probs(["Hello there"], composition)


def test_rows_of_one_call_go_on_when_one_overflows(engine):
    sampling = Sampling(max_new_tokens=6, seed=1)
    rows = [("Alone x", HEALTHY[1], sampling), ("Sick", SICK[0], sampling), ("b", HEALTHY[0], sampling)]
    result: dict[int, list[int]] = {}
    with pytest.raises(ComposerError, match="overflowed"):
        for step in engine.generate_rows(rows):
            result.setdefault(step.row, []).append(step.token)
    assert result[0] == alone(engine, 1, 6) and len(result[2]) == 6 and 1 not in result


@pytest.mark.parametrize("name", LOUD)
def test_pictures_have_no_nan_whatever_an_adapter_holds(engine, name):
    for norm in (True, False):
        fusion = engine.fusion("Hello there", norm=norm)
        assert np.isfinite(fusion.kl).all() and np.isfinite(fusion.alpha).all()
        np.testing.assert_allclose(fusion.alpha.sum(axis=1), 1, rtol=1e-5)
    assert all(np.isfinite(list(norms.values())).all() for norms in engine.snapshot.bank.norms.values())
    # Whoever leaves the loud adapter out reads as if it were not there.
    logo = ("logo",) if any(path.endswith("q_proj") for path in engine.model.sites) else ()
    for method in ("kl", "cosine", "balanced", "static", "contrast", "arrow", *logo):
        steps = list(
            engine.generate("ab", Composition({"rslora": 1, "plain": 1}, method), Sampling(max_new_tokens=3))
        )
        assert len(steps) == 3 and all(np.isfinite(step.contribution).all() for step in steps)


def test_a_request_after_an_overflow_gets_the_text_it_gets_alone(engine):
    scheduler = Scheduler(engine, slots=2)
    try:
        for _ in range(2):
            with pytest.raises(ComposerError, match="overflowed"):
                list(scheduler.generate("Sick", SICK[0], Sampling(max_new_tokens=8)))
            got = [
                step.token
                for step in scheduler.generate("Alone x", HEALTHY[1], Sampling(max_new_tokens=16, seed=1))
            ]
            assert got == alone(engine, 1, 16)
    finally:
        scheduler.close()


def test_a_float16_base_overflows_for_one_and_not_for_the_next(tmp_path):
    import dataclasses

    whole = tiny.engine("llama", {})
    spec = dataclasses.replace(whole.base.spec, dtype="float16")
    half = type(whole)(
        whole.catalog, dataclasses.replace(whole.base, spec=spec, model=tiny.model("llama").half())
    )
    half.end_tokens = frozenset()
    for name, folder in tiny.three_unlike(tmp_path, "llama").items():
        assert half.add_adapter(str(folder), name=name).ok
    wild = Composition({"plain": 8, "rslora": 8, "patterned": 8}, strength=4, bands=(2, 2, 2))
    short = Sampling(max_new_tokens=20, seed=1)
    run: DecodeSession = half.start(1, 128)
    before = [step.token for step in half.generate("Next", Composition(), short)]
    outcomes = run.add([half.row("wild", "abc" * 5, wild, Sampling(max_new_tokens=30))])
    while run.keys:
        outcomes = run.step()
    assert isinstance(outcomes[-1], Failed) and "overflowed" in str(outcomes[-1].fault)
    after = run.add([half.row("next", "Next", Composition(), short)])
    while run.keys:
        after += run.step()
    assert [step.token for step in after] == before


@pytest.mark.parametrize("dtype", LONGEST)
def test_balancing_leaves_ordinary_factors_alone_and_the_product_as_it_is(dtype):
    torch.manual_seed(0)
    A, B = torch.randn(4, 32).to(dtype) / 8, torch.randn(24, 4).to(dtype) / 8
    same = balanced(A, B, 0.5)
    assert same.A is A and same.B is B and same.scaling == 0.5
    large = (A * 2.0**9).to(dtype), (B * 2.0**9).to(dtype)
    if dtype != torch.float16:
        large = large[0] * 2.0**30, large[1] * 2.0**30
    found = balanced(*large, 0.5)
    assert float(torch.linalg.vector_norm(found.A.float(), dim=1).max()) <= 1
    assert float(torch.linalg.vector_norm(found.B.float(), dim=0).max()) <= 1
    mine, reference = (
        (found.scaling * (found.B.double() @ found.A.double())),
        0.5 * (large[1].double() @ large[0].double()),
    )
    torch.testing.assert_close(mine, reference, rtol=1e-3 if dtype == torch.float16 else 1e-12, atol=0)
