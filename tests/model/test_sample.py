"""Drawing: settings per row, a random stream per seed, the field's filters."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from composer.model.sample import Stream, draw
from composer.spec import Sampling

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def draws(count: int, **settings) -> Counter:
    stream = Stream(Sampling(**settings))
    return Counter(draw([stream], [[0]], LOGITS[None])[0] for _ in range(count))


def test_frequencies_follow_the_distribution():
    seen = draws(4000, top_p=1, top_k=0)
    for token, probability in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert abs(seen[token] / 4000 - probability) < 0.03


@pytest.mark.parametrize(
    ("settings", "survivors"),
    [
        ({"top_k": 2, "top_p": 1}, {0, 1}),
        ({"top_k": 0, "top_p": 0.75}, {0, 1}),
        ({"top_k": 3, "top_p": 0.5}, {0}),
        ({"top_k": 50, "top_p": 0.9}, {0, 1, 2}),
        ({"temperature": 0}, {0}),
    ],
)
def test_filters_keep_whom_they_should(settings, survivors):
    assert set(draws(500, **settings)) == survivors


def test_temperature_flattens():
    assert draws(2000, temperature=5, top_p=1)[3] > draws(2000, temperature=0.5, top_p=1)[3]


def test_a_row_draws_the_same_alone_and_in_company():
    torch.manual_seed(0)
    logits = torch.randn(20, 3, 50)
    rows = [Sampling(seed=1), Sampling(seed=2, temperature=0.7), Sampling(seed=1, top_k=5)]
    company = [Stream(row) for row in rows]
    together = [draw(company, [[0]] * 3, step) for step in logits]
    for row, sampling in enumerate(rows):
        alone = Stream(sampling)
        assert [draw([alone], [[0]], step[row : row + 1])[0] for step in logits] == [
            tokens[row] for tokens in together
        ]


def test_seeds_differ_and_repeat():
    assert draws(50, seed=1) == draws(50, seed=1)
    first = [draw([Stream(Sampling(seed=seed, top_p=1))], [[0]], LOGITS[None])[0] for seed in range(40)]
    assert len(set(first)) > 1


def test_repetition_penalty_looks_at_the_rows_own_history():
    streams = [Stream(Sampling(temperature=0, repetition_penalty=5)) for _ in range(2)]
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    assert draw(streams, [[0], [1]], logits) == [1, 0]
