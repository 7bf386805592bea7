"""docs/catalog-templates.yaml is a catalog that loads, and docs/bases.md says of its bases what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from composer.adapters.catalog import load_catalog
from composer.adapters.hub import valid_repo_id
from composer.core.catalog_types import BaseSpec
from composer.model.checkpoints.memory_estimate import estimate_memory
from tests.tools.real_shapes import SHAPES, config_of

DOCS = Path(__file__).parents[2] / "docs"
TEMPLATES = load_catalog(DOCS / "catalog-templates.yaml")
TABLE = {
    cells[0]: cells[1:]
    for line in (DOCS / "bases.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and "/" in (cells := [cell.strip() for cell in line.strip("|").split("|")])[0]
}


def test_there_is_a_template_for_each_family_that_people_have():
    assert set(TEMPLATES.bases) >= {
        "llama-3.1-8b",
        "llama-3.2-1b",
        "qwen2.5-0.5b",
        "qwen2.5-7b",
        "qwen3-0.6b",
        "qwen3-8b",
        "gemma-3-1b",
        "gemma-3-4b",
    }


@pytest.mark.parametrize("name", TEMPLATES.bases)
def test_a_template_is_of_a_known_base_and_is_marked_as_not_tried(name):
    base = TEMPLATES.bases[name]
    assert valid_repo_id(base.id) and base.id == SHAPES[name].id
    assert not base.verified and base.revision is None and base.label
    assert [adapter.source for adapter in base.adapters] == ["owner/name"]


@pytest.mark.parametrize("name", TEMPLATES.bases)
def test_a_template_has_a_fast_pass_or_says_that_it_has_none(name):
    slower = estimate_memory(config_of(name), TEMPLATES.bases[name]).slower
    text = (DOCS / "catalog-templates.yaml").read_text("utf-8")
    above = text[: text.index(f"  {name}:\n")].rpartition("\n\n")[2]
    assert (slower is not None) == ("through transformers' modules" in above)


@pytest.mark.parametrize("name", TEMPLATES.bases)
def test_a_template_loads_into_16_gb(name):
    """Those of more than 3 GB are in nf4, or a common card would not hold them."""
    estimate = estimate_memory(config_of(name), TEMPLATES.bases[name])
    assert estimate.loaded("cuda") < 8e9


@pytest.mark.parametrize("name", SHAPES)
def test_the_documented_memory_is_the_estimate(name):
    own = BaseSpec(name, SHAPES[name].id, dtype="bfloat16")
    dense = estimate_memory(config_of(name), own)
    nf4 = estimate_memory(config_of(name), BaseSpec(name, own.id, dtype="bfloat16", quantization="nf4"))
    assert TABLE[own.id] == [
        f"{dense.parameters / 1e6:,.0f} M",
        f"{dense.weights / 1e9:.2f}",
        f"{nf4.weights / 1e9:.2f}",
        f"{1024 * dense.kv_token / 1e6:.0f}",
        f"{16 * dense.adapter_rank / 1e6:.0f}",
    ]


def test_the_page_names_the_templates_and_every_gated_owner():
    text = (DOCS / "bases.md").read_text("utf-8")
    assert "(catalog-templates.yaml)" in text and "HF_TOKEN" in text
    gated = {base.id.partition("/")[0] for base in TEMPLATES.bases.values()} - {"Qwen"}
    assert gated == {"meta-llama", "google"} and all(re.search(owner, text) for owner in gated)
