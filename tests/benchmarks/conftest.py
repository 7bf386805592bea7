"""A tiny base on disk, as a catalog names it, and the bench's stand over it: made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from benchmarks.fixture import BenchFixture
from benchmarks.plan import Plan
from composer.adapters.catalog import load_catalog
from tests.tools import tiny

TOY = Plan(
    tokens=4,
    rounds=1,
    prompt=8,
    fusions=(2,),
    users=(1, 3),
    user_tokens=3,
    user_rounds=2,
    previews=3,
    page_opens=1,
    page_moves=2,
    starts=1,
    contention_rounds=1,
    waits=("default",),
    peer_tokens=4,
    tokens_busy=3,
    loaded=(4,),
    gpu_tokens=4,
    gpu_rounds=1,
    peft_tokens=3,
)


@pytest.fixture(scope="session")
def toy_catalog(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    base = AutoModelForCausalLM.from_config(tiny.FAMILIES["llama"]())
    base.load_state_dict(tiny.model("llama").state_dict())
    base.save_pretrained(folder / "base")
    tiny.tokenizer().save_pretrained(folder / "base")
    path = folder / "adapters.yaml"
    path.write_text("default: tiny\nbases:\n  tiny: {id: tiny/llama, folder: base}\n", "utf-8")
    return path


@pytest.fixture(scope="session")
def fixture(toy_catalog, tmp_path_factory) -> BenchFixture:
    return BenchFixture(load_catalog(toy_catalog).base(), tmp_path_factory.mktemp("stand"), device="cpu")


@pytest.fixture(scope="session")
def toy() -> Plan:
    return TOY
