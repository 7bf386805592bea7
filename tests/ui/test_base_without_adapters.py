"""A base whose adapters cannot be loaded: they are named, and the rest works."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from composer import Composition, Engine, Sampling
from composer.ui.page import Page
from composer.ui.runners.batched import BatchedRunner
from composer.ui.settings import Settings
from tests.tools import tiny

CATALOG = """
default: tiny
bases:
  tiny:
    id: tiny/gemma3
    folder: base
    opening: {method: contrast}
    attributes: {mood: {poles: [sad, glad]}, topic: {members: [war, play]}}
    adapters: {sad: {source: x/y/a}, glad: {source: x/y/b}, war: {source: x/y/c}, play: {source: x/y/d}}
examples:
  - {prompt: Hello, weights: {glad: 1}, label: One}
"""


@pytest.fixture
def engine(tmp_path) -> Engine:
    tiny.model("gemma3").save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    catalog = Path(tmp_path / "adapters.yaml")
    catalog.write_text(CATALOG, "utf-8")
    return Engine.from_catalog(catalog, compile_step=False)


def test_it_generates_and_says_what_was_left_out(engine):
    assert engine.names == () and engine.attributes == ()
    assert [report.name for report in engine.reports if not report.ok] == ["sad", "glad", "war", "play"]
    assert list(engine.generate("Hello", Composition(), Sampling(max_new_tokens=3)))
    assert engine.fusion("Hello").alpha.shape == (engine.model.layers, 0)


def test_its_page_is_made_without_the_examples_that_need_them(engine):
    with closing(BatchedRunner(engine, Settings())) as runner:
        page = Page(runner, Settings())
        assert page.blocks() and page.context.examples == ()
