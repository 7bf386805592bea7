"""What a bank change makes anew, and that nothing of earlier banks stays alive."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch

from composer.core.composition import Composition, Sampling
from composer.engine.engine import Engine
from composer.engine.scheduler import Scheduler
from composer.model.runtime.cuda_graphs import CudaGraphRunner
from composer.model.runtime.llama import onednn_linear
from composer.model.runtime.llama.layer_table import LayerTable
from tests.tools import tiny

CHANGES = 100
SHORT = Sampling(max_new_tokens=3, temperature=0)


@pytest.fixture(params=["plain", "graphs", "int8"])
def engine(request, tmp_path):
    folders = {name: tiny.adapter(tmp_path / name, "llama", seed, r=4) for seed, name in enumerate("ab")}
    engine = tiny.engine("llama", folders)
    if request.param == "int8":
        base = replace(engine.base, model=tiny.model("llama"))
        engine = Engine(engine.catalog, base, "int8")
        assert all(engine.add_adapter(str(folder), name=name).ok for name, folder in folders.items())
    engine.end_tokens = frozenset()
    if request.param == "graphs":
        # A capture that records nothing, so that graphs can be counted without a GPU.
        engine.runner = CudaGraphRunner(engine.runner.inner, capture=lambda run: run)
    return engine


def alive() -> tuple[int, int, int]:
    """Tables, packed copies, and bytes of all tensors' memory."""
    gc.collect()
    objects = gc.get_objects()
    tables = sum(type(each) is LayerTable for each in objects)
    storages = {}
    for each in objects:
        # By type: what compiler tests leave behind are tensors without memory.
        if type(each) in (torch.Tensor, torch.nn.Parameter) and each.layout == torch.strided:
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return tables, len(onednn_linear._copies), sum(storages.values())


def test_nothing_of_earlier_banks_stays_alive(engine):
    scheduler = Scheduler(engine, slots=2)

    def merge(number: int) -> None:
        # Another weight is another merged adapter, and so another bank.
        weights = {"a": 1.0, "b": 0.5 + number / 1000}
        assert len(list(scheduler.generate("Hello", Composition(weights, "linear"), SHORT))) == 3

    # One text outlasts all changes, so that everything happens in one batch and its cache.
    long = scheduler.submit("I stay", Composition({"a": 1}), Sampling(max_new_tokens=200)).events()
    next(event for event in long)
    early, late = [], []
    for number in range(CHANGES):
        merge(number)
        if number < 5 or number >= CHANGES - 5:
            (early if number < 5 else late).append(alive())
    long.close()
    scheduler.close()
    # Beside engines of other tests: the newest bank's table, and that of the batch until it is changed.
    (tables, copies, size), (most, copied, filled) = np.max(late, axis=0), np.max(early, axis=0)
    assert tables <= most and copies <= copied and size <= filled * 1.05
    assert sum(name not in engine.names for name in engine.snapshot.bank.names) == 1, "one slot serves all"


def test_the_base_is_packed_once_and_decodes_the_same_under_every_bank(engine, monkeypatch, tmp_path):
    composition = Composition({"a": 1.0})
    expected = engine.next_token_logits("Hello", composition)
    words = [step.token for step in engine.generate("Hello", composition, SHORT)]
    packed = []
    plainly = onednn_linear.pack
    monkeypatch.setattr(
        "composer.model.runtime.llama.fused_linear.pack", lambda w: packed.append(w.clone()) or plainly(w)
    )
    for number in range(3):
        assert engine.add_adapter(str(tmp_path / "b"), name=f"more{number}").ok
        np.testing.assert_allclose(engine.next_token_logits("Hello", composition), expected, atol=1e-5)
        assert [step.token for step in engine.generate("Hello", composition, SHORT)] == words
    first = [engine.model.model.get_submodule(path).base.weight[0] for path in engine.model.sites]
    assert not any(torch.equal(weight[0], row) for weight in packed for row in first)


def test_what_does_not_change_is_shared_by_every_bank(tmp_path):
    folders = {name: tiny.adapter(tmp_path / name, "llama", seed, r=4) for seed, name in enumerate("abc")}
    engine = tiny.engine("llama", {name: folders[name] for name in "ab"})
    before = engine.snapshot.layout
    chosen = before.select((0,))
    assert engine.add_adapter(str(folders["c"]), name="guest", removable=True).ok
    after = engine.snapshot.layout
    assert after is not before and after.select((0,)) is chosen, "what was made of it would be made anew"
    for path, site in before.bank.sites.items():
        assert all(one is other for one, other in zip(site.parts, after.bank.sites[path].parts, strict=False))
    guest = after.select((2,))
    engine.remove_adapter("guest")
    assert engine.add_adapter(str(folders["b"]), name="guest", removable=True).ok
    newest = engine.snapshot.layout
    assert newest.select((0,)) is chosen
    assert newest.columns == after.columns and newest.select((2,)) is not guest, (
        "another adapter has its name"
    )
