"""Fifty adapters from the Hub, brought by fifty visitors: memory and disk stay within their budgets."""

from __future__ import annotations

import pytest

from composer.core.composition import Composition
from composer.engine.added_adapters import AddedAdapters
from tests.tools import tiny
from tests.tools.fake_hub import FakeHub

COUNT = 50
FITTING = 5  # adapters that the budgets have room for


@pytest.fixture
def crowd(hub: FakeHub, tmp_path) -> FakeHub:
    """A Hub with fifty adapters of one size."""
    for seed in range(COUNT):
        folder = tiny.adapter(tmp_path / f"a{seed}", "llama", seed, r=4)
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        hub.add(f"owner/a{seed}", files)
    return hub


def on_disk(folder) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def test_fifty_additions_stay_within_the_budgets_and_each_comes_back(crowd, tmp_path):
    engine, cache = tiny.engine("llama", {}), tmp_path / "added"
    engine.end_tokens = frozenset()
    first = AddedAdapters(engine, 1e9, 1e9, cache)
    _, one = first.add("owner/a0")
    expected = engine.next_token_logits("Who", Composition({one.name: 1}))
    file = on_disk(cache)
    first.release(one)
    added = AddedAdapters(engine, FITTING * one.memory, FITTING * file, cache)
    owners = []
    for seed in range(COUNT):
        report, own = added.add(f"owner/a{seed}")
        assert report.ok and own is not None
        owners.append(own)
        assert added.bytes <= FITTING * one.memory and len(engine.names) <= FITTING
        assert on_disk(cache) <= (FITTING + 1) * file, "beside the newest one there are more than fit"
    sites = engine.snapshot.bank.sites.values()
    # A slot has room for a rank that is a multiple of 8.
    assert sum(site.A.nbytes + site.B.nbytes for site in sites) <= (FITTING + 1) * 2 * one.memory
    assert owners[0].name not in engine.names
    added.use([owners[0]])
    again = engine.next_token_logits("Who", Composition({owners[0].name: 1}))
    assert abs(again - expected).max() < 1e-5 and added.bytes <= FITTING * one.memory
