"""The compiled step: weights in the bits that hold them, and the logits, telemetry and cache of the pass that
it stands for."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from composer.core.composition import Composition, Sampling
from composer.engine.engine import Engine
from composer.model.contribution import Contribution
from composer.model.runtime.compilation import Compilation
from composer.model.runtime.kv_cache import LENGTH_MULTIPLE, KVCache
from composer.model.runtime.native import library
from composer.model.runtime.native import runner as runners
from composer.model.runtime.native import storage as storages
from composer.model.runtime.native.runner import KEPT_TABLES, NativeRunner
from composer.model.runtime.native.storage import (
    GROUP,
    Storage,
    stack,
    store_as_floats,
    store_exactly,
    store_int8,
)
from composer.model.runtime.runner import Inputs
from composer.model.runtime.token_routing import RouterConfig
from tests.tools import tiny

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3")
# Those that are found by a weight's values.
STORAGES = [storage for storage in Storage if storage is not Storage.NF4]
GREEDY = Sampling(max_new_tokens=24, temperature=0)
NUMBERS = st.one_of(
    st.integers(-(2**24), 2**24).map(lambda whole: whole / 4096),
    st.sampled_from([0.0, 1e-30, -1e-7, 65504.0, 1e5, -3e38]),
)


def grid(storage: Storage, rows: int, columns: int, seed: int = 0, size: float = 1.0) -> torch.Tensor:
    """A random float32 weight that the storage holds exactly, as a quantiser would leave it."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=random) * size
    if storage is Storage.BF16:
        return weight.bfloat16().float()
    if storage is Storage.F16:
        return weight.half().float()
    if storage is Storage.F32:
        return weight
    groups = weight.view(rows, -1, GROUP)
    low, high = groups.amin(dim=2, keepdim=True), groups.amax(dim=2, keepdim=True)
    if storage is Storage.U4:
        scale, low = ((high - low) / 15).half().float(), low.half().float()
        return (((groups - low) / scale).round().clamp(0, 15) * scale + low).view(rows, columns)
    scale = (groups.abs().amax(dim=2, keepdim=True) / 127).half().float()
    return ((groups / scale).round() * scale).view(rows, columns)


# --- storages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
def test_a_weight_is_stored_in_the_fewest_bits_that_hold_it_exactly(storage):
    weight = grid(storage, 40, 96)
    stored = store_exactly(weight)
    assert stored.storage is storage
    assert torch.equal(stored.weight(), weight)


@pytest.mark.parametrize("storage", [Storage.U4, Storage.I8, Storage.BF16])
def test_one_number_off_the_grid_is_kept(storage):
    weight = grid(storage, 40, 96)
    weight[39, 95] += 1e-5
    stored = store_exactly(weight)
    assert stored.storage is Storage.F32
    assert torch.equal(stored.weight(), weight)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(NUMBERS, min_size=GROUP, max_size=GROUP),
    st.integers(1, 3),
)
def test_any_weight_comes_back_to_the_bit(numbers, repeats):
    weight = torch.tensor([numbers * repeats] * 3)
    assert torch.equal(store_exactly(weight).weight(), weight)


@pytest.mark.parametrize("weight", [torch.zeros(3, 64), torch.full((3, 64), 0.5), torch.full((3, 64), 1e-30)])
def test_groups_of_one_number_come_back(weight):
    assert torch.equal(store_exactly(weight).weight(), weight)


@pytest.mark.parametrize("storage", [Storage.BF16, Storage.F16, Storage.F32])
def test_factors_are_floats_of_as_few_bytes_as_hold_them_exactly(storage):
    weight = grid(storage, 5, 64)
    stored = store_as_floats(weight)
    assert stored.storage is storage and torch.equal(stored.weight(), weight)
    assert store_as_floats(weight[:, :40].contiguous()).storage is Storage.F32


def test_int8_is_within_half_a_step_and_leaves_what_is_smaller_exact():
    weight = grid(Storage.F32, 24, 96)
    stored = store_int8(weight)
    assert stored.storage is Storage.I8
    step = weight.view(24, -1, GROUP).abs().amax(dim=2) / 127
    apart = (stored.weight() - weight).view(24, -1, GROUP).abs().amax(dim=2)
    assert bool((apart <= 0.51 * step).all()) and float(apart.max()) > 0
    four = grid(Storage.U4, 24, 96)
    assert store_int8(four).storage is Storage.U4
    assert torch.equal(store_int8(four).weight(), four)


def test_stacked_matrices_are_their_rows_and_unlike_ones_do_not_stack():
    parts = [grid(Storage.U4, 8, 64, seed) for seed in range(3)]
    whole = stack([store_exactly(part) for part in parts])
    assert whole is not None and torch.equal(whole.weight(), torch.cat(parts))
    assert stack([store_exactly(parts[0]), store_exactly(grid(Storage.I8, 8, 64))]) is None


# --- the step ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def of(family: str):
        if family not in made:
            made[family] = tiny.three_unlike(tmp_path_factory.mktemp(family), family)
        return made[family]

    return of


def with_weights(storage: Storage) -> Engine:
    """A tiny engine whose Linear weights a storage holds exactly, without adapters."""
    sizes = dict(hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2)
    model = tiny.random(AutoConfig.for_model("llama", **tiny.COMMON | sizes))
    for seed, layer in enumerate(each for each in model.modules() if isinstance(each, torch.nn.Linear)):
        layer.weight.data = grid(storage, *layer.weight.shape, seed, 1 / 8)
    engine = tiny.engine_of(model)
    engine.runner.compile()
    return engine


def both(engine: Engine, lengths=(5, 3, 9), columns=(0, 1, 2), routes=()):
    """What the compiled step and the pass it stands for give for a token of each row: logits, cache,
    telemetry, and contributions."""
    layout = engine.snapshot.layout.select(columns)
    random = torch.Generator().manual_seed(1)
    gates = torch.rand(len(lengths), engine.model.layers, len(columns), generator=random)
    vocabulary = engine.base.vocabulary
    prompts = [[(7 * row + 3 * place) % vocabulary for place in range(n)] for row, n in enumerate(lengths)]
    read = engine.runner.read(layout, gates, prompts)
    found = []
    for decode in (engine.runner, engine.runner.inner):
        cache = KVCache(len(lengths), LENGTH_MULTIPLE)
        for row, length in enumerate(lengths):
            cache.write(row, length, read, row)
        inputs = Inputs(torch.arange(len(lengths)) + 3, torch.tensor(lengths), 64)
        logits, telemetry = decode(decode.prepare(layout, gates, routes), inputs, cache)
        told = [telemetry.coded, telemetry.energy, Contribution(layout)(telemetry)] if telemetry else []
        found.append((logits, torch.stack(cache.buffers), *told))
    return found


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9, 33])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_compiled_step_computes_what_the_pass_does(family, rows, folders):
    engine = tiny.engine(family, folders(family))
    engine.runner.compile()
    for one, other in zip(*both(engine, [2 + place % 11 for place in range(rows)]), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("storage", STORAGES)
def test_it_multiplies_with_every_storage(storage, rows):
    engine = with_weights(storage)
    held = {
        each.weight.storage for layer in engine.runner.step._base.layers for each in (layer.qkv, layer.down)
    }
    assert held == {storage}
    for one, other in zip(*both(engine, [4] * rows, ()), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("norms", [(False,), (True,), (False, True)])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_share_out_their_gates_as_in_the_pass(family, norms, folders):
    engine = tiny.engine(family, folders(family))
    engine.runner.compile()
    parts = np.array([True, True, True]), np.array([True, False, True])
    kinds = [(0, 1.0, True, None), (1, 0.4, False, None), (0, 1.0, True, 2), (0, 1.0, False, 1)]
    routes = [
        RouterConfig(parts[part], blend, unit, by_norm, top)
        for part, blend, unit, top in kinds
        for by_norm in norms
    ]
    for each in ([*routes, None], routes[:1]):
        found = both(engine, [2 + place for place in range(len(each))], routes=each)
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    plain = both(engine, [2], routes=())
    assert not torch.allclose(found[0][0], plain[0][0], atol=1e-3), "sharing must matter"


def test_contributions_of_numbers_whose_squares_overflow_are_finite(folders):
    engine = tiny.engine("llama", folders("llama"))
    for site in engine.snapshot.bank.sites.values():
        for part in site.parts:
            part.A.mul_(2.0**70)
            part.B.mul_(2.0**-30)
    engine.runner.compile()
    (*_, coded, _, ours), (*_, expected) = both(engine)
    assert coded.square().isinf().any() and float(ours.max()) > 1e9
    torch.testing.assert_close(ours, expected, atol=0, rtol=0.01)


@pytest.mark.parametrize("lengths", [(1,), (7,), (5, 3, 11, 1), (6, 6)])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_reads_short_prompts_as_the_pass_does(family, lengths, folders):
    engine = tiny.engine(family, folders(family))
    engine.runner.compile()
    layout = engine.snapshot.layout
    gates = torch.rand(len(lengths), engine.model.layers, 3, generator=torch.Generator().manual_seed(2))
    prompts = [[(5 * row + 3 * place) % 250 for place in range(n)] for row, n in enumerate(lengths)]
    route = RouterConfig(np.array([True, False, True]), 1.0, True)
    for every, unembed, routes in (
        (False, True, ()),
        (len(set(lengths)) == 1, False, ()),
        (False, True, [*[None] * (len(lengths) - 1), route]),
    ):
        ours, inner = (
            runner.read(layout, gates, prompts, unembed, every, routes)
            for runner in (engine.runner, engine.runner.inner)
        )
        assert (ours.logits is None) == (not unembed) and ours.starts == inner.starts
        for one, other in zip(_tensors(ours), _tensors(inner), strict=True):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def _tensors(read):
    logits = () if read.logits is None else (read.logits,)
    said = read.telemetry
    return *logits, *read.hidden, *read.past, said.coded, said.energy, Contribution(said.layout)(said)


def test_long_prompts_and_those_of_int8_are_read_by_the_pass(folders, monkeypatch):
    engine = tiny.engine("llama", folders("llama"))
    engine.runner.compile()
    eight = NativeRunner(engine.runner.inner, "int8")
    eight.compile()
    short, layout = [[1, 2, 3]], engine.snapshot.layout
    widest = engine.runner.step.widest
    long = [[1] * (runners.NEAR // (4 * widest) + 1)]
    calls = []
    read = type(engine.runner.inner).read
    monkeypatch.setattr(
        type(engine.runner.inner), "read", lambda self, *args: calls.append(args[2]) or read(self, *args)
    )
    gates = torch.ones(1, engine.model.layers, 3)
    for runner, prompts in ((engine.runner, short), (engine.runner, long), (eight, short)):
        runner.read(layout, gates, prompts)
    assert calls == [long, short]


@pytest.mark.parametrize("rows", [1, 12])
@pytest.mark.parametrize("width,heads,kv_heads", [(20, 3, 3), (64, 6, 2), (72, 7, 1), (128, 4, 2)])
def test_heads_of_any_width_read_the_keys_they_share(width, heads, kv_heads, rows):
    sizes = dict(
        head_dim=width, num_attention_heads=heads, num_key_value_heads=kv_heads, hidden_size=8 * heads
    )
    engine = tiny.engine_of(tiny.random(AutoConfig.for_model("llama", **tiny.COMMON | sizes)))
    engine.runner.compile()
    for one, other in zip(*both(engine, [1 + 5 * place for place in range(rows)], ()), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
def test_adapters_in_bfloat16_are_read_in_it(rows, folders):
    engine = tiny.engine_of(tiny.model("llama"), name="llama")
    for name, folder in folders("llama").items():
        assert engine.add_adapter(str(folder), name=name).ok
    for site in engine.snapshot.layout.bank.sites.values():
        for part in site.parts:
            for factor in (part.A, part.B):
                factor.copy_(factor.bfloat16().float())
    engine.runner.compile()
    for one, other in zip(*both(engine, [4] * rows), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
    table = engine.runner.step._table(engine.snapshot.layout.select((0, 1, 2)))
    held = {each.B.storage for layer in table.model.layer[:2] for each in layer.qkv.site[: layer.qkv.sites]}
    assert held == {Storage.BF16}


def test_float32_reads_the_weights_as_they_are_loaded(folders):
    engine = with_weights(Storage.U4)
    engine.runner = NativeRunner(engine.runner.inner, "float32")
    engine.runner.compile()
    assert {layer.qkv.weight.storage for layer in engine.runner.step._base.layers} == {Storage.F32}
    for one, other in zip(*both(engine, columns=()), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("columns", [(), (1,), (2, 0)])
def test_it_runs_under_any_of_the_adapters(columns, folders):
    engine = tiny.engine("llama", folders("llama"))
    engine.runner.compile()
    for one, other in zip(*both(engine, columns=columns), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_it_attends_to_the_window_alone(family, folders):
    engine = tiny.engine(family, folders(family))
    engine.runner.compile()
    windows = [block.window for block in engine.runner.inner.blocks if block.window]
    assert windows
    for one, other in zip(*both(engine, (max(windows) + 7, 3)), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_the_same_words(family, folders):
    engine = tiny.engine(family, folders(family))
    engine.end_tokens = frozenset()
    composition = Composition(weights={"plain": 1, "rslora": -0.5})
    long = replace(GREEDY, max_new_tokens=100)
    plain = list(engine.generate("abc", composition, long))
    assert Compilation(engine.runner, engine.snapshot.layout, engine._verify).wait(300)
    quick = list(engine.generate("abc", composition, long))
    assert [step.token for step in quick] == [step.token for step in plain]
    for one, other in zip(plain, quick, strict=True):
        np.testing.assert_allclose(one.contribution, other.contribution, rtol=1e-3, atol=1e-5)
    # Rows that end one by one get the words they get alone.
    uneven = [
        (text, composition, replace(long, max_new_tokens=20 * place))
        for place, text in enumerate(("abc", "a longer beginning", "b"), 1)
    ]
    together = list(engine.generate_rows(uneven))
    for row, request in enumerate(uneven):
        alone = [step.token for step in engine.generate(*request)]
        assert [step.token for step in together if step.row == row] == alone


def test_an_adapter_that_is_turned_up_needs_no_compilation(folders, monkeypatch):
    engine = tiny.engine("llama", folders("llama"))
    engine.runner.compile()
    monkeypatch.setattr(NativeRunner, "compile", lambda *_: 1 / 0)
    before = engine.runner.step
    for weights in ({}, {"plain": 1}, {"plain": 1, "rslora": 1}, {"patterned": 0.5}):
        assert len(list(engine.generate("abc", Composition(weights), GREEDY))) > 0
        assert engine.runner.step is before
    assert len(before._tables) <= KEPT_TABLES


def test_an_argument_that_is_no_longer_used_warns(folders):
    engine = tiny.engine("llama", folders("llama"))
    with pytest.warns(DeprecationWarning, match="several"):
        assert engine.warm_up(several=False).wait(300)


def test_a_new_set_of_adapters_is_not_searched_for_integers(folders, monkeypatch):
    """All texts wait while its factors are stored."""
    engine = tiny.engine("llama", folders("llama"))
    engine.runner.compile()

    def searched(weight):
        raise AssertionError("an adapter's factors were tried as integers")

    for attempt in ("_four_bits", "_eight_bits"):
        monkeypatch.setattr(storages, attempt, searched)
    for one, other in zip(*both(engine, columns=(0, 2)), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_the_tables_of_adapters_that_are_kept_are_few(tmp_path):
    names = [f"a{place}" for place in range(KEPT_TABLES + 4)]
    engine = tiny.engine(
        "llama", {name: tiny.adapter(tmp_path / name, "llama", seed) for seed, name in enumerate(names)}
    )
    engine.runner.compile()
    for name in names:
        list(engine.generate("abc", Composition({name: 1}), replace(GREEDY, max_new_tokens=2)))
    assert len(engine.runner.step._tables) == KEPT_TABLES


# --- the compiler --------------------------------------------------------------------------------


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """A cache folder of its own, and nothing compiled before."""
    monkeypatch.setenv("COMPOSER_CACHE", str(tmp_path))
    library.step_library.cache_clear()
    yield tmp_path
    library.step_library.cache_clear()


def test_what_was_compiled_is_kept_for_the_next_start(anew, monkeypatch):
    library.step_library()
    (kept,) = (anew / "compiled").iterdir()
    library.step_library.cache_clear()
    monkeypatch.setattr(library, "_compile", lambda *_: 1 / 0)
    library.step_library()
    assert list((anew / "compiled").iterdir()) == [kept]


def test_a_cut_file_is_removed_and_made_anew(anew, monkeypatch):
    library.step_library()
    (kept,) = (anew / "compiled").iterdir()
    library.step_library.cache_clear()
    # Another folder: the system's loader knows the first one's file by its name.
    monkeypatch.setenv("COMPOSER_CACHE", str(anew / "other"))
    cut = anew / "other" / "compiled" / kept.name
    cut.parent.mkdir(parents=True)
    cut.write_bytes(b"cut")
    with pytest.raises(library.CompilerError, match="loaded"):
        library.step_library()
    assert not cut.exists()
    assert library.step_library() and cut.exists()


def test_without_a_compiler_decoding_goes_on_and_the_log_says_so(anew, monkeypatch, caplog, folders):
    monkeypatch.setattr(library.shutil, "which", lambda _: None)
    engine = tiny.engine("llama", folders("llama"))
    monkeypatch.setattr("composer.model.runtime.native.runner.team", library.step_library)
    with caplog.at_level(logging.WARNING):
        assert not engine.warm_up().wait(60)
    assert "g++" in caplog.text
    assert not engine.runner.compiled
    assert len(list(engine.generate("abc", Composition(), GREEDY))) > 0


COMPILERS = {
    "broken": ("echo no such instruction >&2; exit 1", "The C++ compiler failed: ['no such instruction']"),
    "killed": ("kill -9 $$", "The C++ compiler failed: []"),
    "hanging": ("sleep 60", "The C++ compiler cannot be run"),
    "not a program": (None, "The C++ compiler cannot be run"),
}


@pytest.mark.parametrize(("does", "says"), COMPILERS.values(), ids=COMPILERS)
def test_a_compiler_that_is_broken_or_killed_costs_speed_alone(
    does, says, anew, monkeypatch, caplog, folders
):
    compiler = anew / "compiler"
    compiler.write_text("\x00" if does is None else f'#!/bin/sh\n[ "$1" = --version ] && exit\n{does}\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(library, "PATIENCE", 2)
    engine = tiny.engine("llama", folders("llama"))
    monkeypatch.setattr("composer.model.runtime.native.runner.team", library.step_library)
    with caplog.at_level(logging.WARNING):
        assert not engine.warm_up().wait(60)
    assert says in caplog.text and not engine.runner.compiled
    assert len(list(engine.generate("abc", Composition(), GREEDY))) > 0
    kept = anew / "compiled"
    assert not kept.exists() or list(kept.iterdir()) == [], "half a file was left behind"


ENDS = """
from tests.tools import tiny
from transformers import AutoConfig
sizes = dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, vocab_size=4096)
engine = tiny.engine_of(tiny.random(AutoConfig.for_model("llama", **tiny.COMMON | sizes)))
engine.warm_up()
"""


def test_a_process_ends_in_the_middle_of_a_compilation():
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_step_that_computes_something_else_is_not_used(monkeypatch, caplog, folders):
    engine = tiny.engine("llama", folders("llama"))
    turned = engine.runner.inner.rope_table
    monkeypatch.setattr(
        type(engine.runner.inner), "rope_table", lambda self, length: turned(length).roll(1, 1)
    )
    with caplog.at_level(logging.WARNING):
        assert not engine.warm_up().wait(60)
    assert not engine.runner.compiled
