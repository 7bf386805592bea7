"""Drawing: settings per row, a random stream per seed, the field's filters."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from composer.core.composition import Sampling
from composer.model.runtime.sampling import NO_TOKEN, RowSampler, sample_next_tokens

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def draws(count: int, **settings) -> Counter:
    sampler = RowSampler(Sampling(**settings))
    return Counter(sample_next_tokens([sampler], [[0]], LOGITS[None])[0] for _ in range(count))


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


def test_a_row_draws_the_same_alone_and_in_a_batch():
    torch.manual_seed(0)
    logits = torch.randn(20, 3, 50)
    rows = [Sampling(seed=1), Sampling(seed=2, temperature=0.7), Sampling(seed=1, top_k=5)]
    company = [RowSampler(row) for row in rows]
    together = [sample_next_tokens(company, [[0]] * 3, step) for step in logits]
    for row, sampling in enumerate(rows):
        alone = RowSampler(sampling)
        assert [sample_next_tokens([alone], [[0]], step[row : row + 1])[0] for step in logits] == [
            tokens[row] for tokens in together
        ]


def test_seeds_differ_and_repeat():
    assert draws(50, seed=1) == draws(50, seed=1)
    first = [
        sample_next_tokens([RowSampler(Sampling(seed=seed, top_p=1))], [[0]], LOGITS[None])[0]
        for seed in range(40)
    ]
    assert len(set(first)) > 1


def test_repetition_penalty_looks_at_the_rows_own_history():
    streams = [RowSampler(Sampling(temperature=0, repetition_penalty=5)) for _ in range(2)]
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    assert sample_next_tokens(streams, [[0], [1]], logits) == [1, 0]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-38, 1e-30, 1e-10, 1e-7])
@pytest.mark.parametrize("more", [{}, {"top_k": 0}, {"top_p": 1.0, "top_k": 0}, {"repetition_penalty": 1.3}])
def test_a_temperature_next_to_nothing_is_greedy(temperature, more):
    torch.manual_seed(1)
    logits = torch.cat([torch.randn(6, 90) * 4, torch.tensor([[3.0, 3.0] + [0.0] * 88])])
    past = [[5, 7]] * len(logits)

    def drawn(temperature: float) -> list[int]:
        rows = [
            RowSampler(Sampling(seed=seed, temperature=temperature, **more)) for seed in range(len(logits))
        ]
        return sample_next_tokens(rows, past, logits)

    assert drawn(temperature) == drawn(0)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    values=st.lists(
        st.one_of(
            st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
            st.floats(-30, 30, width=32, allow_subnormal=False),
            st.just(float("-inf")),
        ),
        min_size=2,
        max_size=12,
    ).filter(lambda values: max(values) > float("-inf")),
    temperature=st.one_of(st.floats(0, 5, allow_subnormal=False), st.sampled_from([1e-45, 1e-6, 2e-6, 1e-3])),
    top_k=st.integers(0, 14),
    top_p=st.floats(0.01, 1),
    penalty=st.floats(0.5, 5),
    uniform=st.sampled_from([0.0, 0.3, 0.999999, 1 - 2**-24]),
)
def test_what_is_drawn_could_be_drawn_whatever_the_numbers(
    values, temperature, top_k, top_p, penalty, uniform
):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty)
    sampler = RowSampler(sampling)
    sampler.uniform = lambda: uniform
    token = sample_next_tokens([sampler], [[0]], torch.tensor([values]))[0]
    assert 0 <= token < len(values) and values[token] > float("-inf")
    if top_k == 1 and penalty == 1:
        assert values[token] == max(values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_is_drawn_from_what_is_no_number_and_the_other_rows_do_not_notice(bad):
    torch.manual_seed(0)
    good = torch.randn(2, 40)
    broken = torch.randn(1, 40)
    broken[0, 7] = bad
    for more in ({}, {"temperature": 0}, {"top_k": 0, "top_p": 0.9}, {"repetition_penalty": 2.0}):
        rows = [RowSampler(Sampling(seed=seed, **more)) for seed in range(3)]
        alone = [RowSampler(Sampling(seed=seed, **more)) for seed in (0, 2)]
        got = sample_next_tokens(rows, [[1]] * 3, torch.cat([good[:1], broken, good[1:]]))
        assert got[1] == NO_TOKEN and [got[0], got[2]] == sample_next_tokens(alone, [[1]] * 2, good)
    assert sample_next_tokens([RowSampler(Sampling())], [[0]], torch.full((1, 5), float("-inf"))) == [
        NO_TOKEN
    ]


def test_a_draw_just_below_one_gives_no_filtered_token():
    sampler = RowSampler(Sampling(top_p=0.7, top_k=0))
    sampler.uniform = lambda: 1 - 2**-24
    torch.manual_seed(0)
    for logits in torch.randn(200, 1, 30) * 3:
        kept = logits.softmax(-1)[0].sort(descending=True)
        count = int((kept.values.cumsum(0) < 0.7).sum()) + 1
        assert sample_next_tokens([sampler], [[0]], logits)[0] in kept.indices[:count].tolist()
