"""Rows of every method in one batch, each as it is alone."""

from __future__ import annotations

import pytest

from composer import Composition, Engine, Sampling
from composer.methods import METHODS
from tests.tools import tiny

PROMPT = "The quick brown fox"
GREEDY = Sampling(max_new_tokens=5, temperature=0)
WEIGHTS = {"one": 1.0, "two": 0.5}


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def engine(request, tmp_path_factory) -> Engine:
    folder, family = tmp_path_factory.mktemp(request.param), request.param
    return tiny.engine(
        family, {name: tiny.adapter(folder / name, family, seed, r=4) for seed, name in enumerate(WEIGHTS)}
    )


def test_rows_of_every_method_decode_together_as_they_do_alone(engine):
    rows = [(PROMPT, engine.resolve(Composition(WEIGHTS, name)), GREEDY) for name in METHODS]
    alone = [[step.token for step in engine.generate(*row)] for row in rows]
    together: list[list[int]] = [[] for _ in rows]
    for step in engine.generate_rows(rows):
        together[step.row].append(step.token)
    for name, one, other in zip(METHODS, alone, together, strict=True):
        assert one == other, name
