"""Sampling: settings per row, a random stream per seed, transformers' filters, independent rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from composer.core.composition import Sampling
from composer.model.runtime import sampling as module
from composer.model.runtime.finite import drawable
from composer.model.runtime.sampling import AHEAD, NO_TOKEN, BatchSampler, RowSampler, sample_next_tokens

CPU = torch.device("cpu")

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


class Fixed(RowSampler):
    """Always the same number."""

    def __init__(self, sampling: Sampling, uniform: float):
        super().__init__(sampling)
        self._uniform = uniform

    def ahead(self, count: int) -> torch.Tensor:
        return torch.full((count,), self._uniform)


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
    sampler = Fixed(sampling, uniform)
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
    sampler = Fixed(Sampling(top_p=0.7, top_k=0), 1 - 2**-24)
    torch.manual_seed(0)
    for logits in torch.randn(200, 1, 30) * 3:
        kept = logits.softmax(-1)[0].sort(descending=True)
        count = int((kept.values.cumsum(0) < 0.7).sum()) + 1
        assert sample_next_tokens([sampler], [[0]], logits)[0] in kept.indices[:count].tolist()


SETTINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0, 1e-6, 1e-5, 0.3, 0.8, 1.0, 5.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 30, 39, 40, 41, 1000]),
    top_p=st.sampled_from([0.01, 0.3, 0.5, 0.9, 0.95, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.0, 1.3, 5.0]),
    seed=st.integers(0, 3),
)


def rows_of_logits(count: int, seed: int) -> torch.Tensor:
    """[count, 40]: smooth, tied, with tokens that cannot come, all equal, huge, and not finite."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, 40, generator=draw) * 3
    kinds = torch.randint(6, (count,), generator=draw).tolist()
    for row, kind in zip(rows, kinds, strict=True):
        if kind == 1:
            row.copy_(row.bfloat16().float().round())
        elif kind == 2:
            row[torch.rand(40, generator=draw) < 0.5] = float("-inf")
            row[7] = 0.5
        elif kind == 3:
            row.fill_(2.5)
        elif kind == 4:
            row.mul_(1e30)
        elif kind == 5:
            row[3] = float("nan")
    return rows


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(own=st.lists(SETTINGS, min_size=2, max_size=7), seed=st.integers(0, 10**6), data=st.data())
def test_a_rows_tokens_do_not_depend_on_the_other_rows_or_their_order(own, seed, data):
    logits = [rows_of_logits(len(own), seed + step) for step in range(3)]
    past = [[row, 3 * row, 11][: 1 + row % 3] for row in range(len(own))]

    def tokens(rows: list[int]) -> list[list[int]]:
        """Each row's, in the order of `rows`."""
        sample = BatchSampler([RowSampler(own[row]) for row in rows], [past[row] for row in rows], CPU)
        return torch.stack([sample(step[rows]) for step in logits], dim=1).tolist()

    alone = [tokens([row])[0] for row in range(len(own))]
    order = data.draw(st.permutations(range(len(own))))
    assert tokens(order) == [alone[row] for row in order]
    assert tokens(order[1:]) == [alone[row] for row in order[1:]]


@pytest.mark.parametrize("more", [{"top_k": 0, "top_p": 0.9}, {"top_k": 6}, {"top_k": 0, "top_p": 1.0}])
def test_sums_over_a_large_vocabulary_are_exact(more):
    """Alone and in any batch, where a sum of floats depends on how it is divided over threads."""
    torch.manual_seed(2)
    logits = torch.randn(6, 70_001) * 2
    own = [Sampling(seed=seed, **more) for seed in range(6)]
    together = sample_next_tokens([RowSampler(each) for each in own], [[0]] * 6, logits)
    strided = torch.stack([logits] * 2, dim=2)[:, :, 1]
    assert together == sample_next_tokens([RowSampler(each) for each in own], [[0]] * 6, strided)
    for row, each in enumerate(own):
        assert sample_next_tokens([RowSampler(each)], [[0]], logits[row : row + 1]) == [together[row]]


NUMBERS = 2048


def shares(sampling: Sampling, past: list[int], logits: torch.Tensor) -> torch.Tensor:
    """[V] float64: how often each token is drawn with numbers spread evenly over [0, 1)."""
    rows = [Fixed(sampling, (place + 0.5) / NUMBERS) for place in range(NUMBERS)]
    drawn = sample_next_tokens(rows, [past] * NUMBERS, logits.expand(NUMBERS, -1))
    return torch.tensor(drawn).bincount(minlength=len(logits)).double() / NUMBERS


def reference(sampling: Sampling, past: list[int], logits: torch.Tensor) -> torch.Tensor:
    """[V] float64: what transformers' processors leave of it."""
    processors = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    return processors(torch.tensor([past]), logits.double()[None]).softmax(dim=-1)[0]


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    values=st.lists(
        st.one_of(
            st.floats(-6, 6, width=16, allow_subnormal=False), st.sampled_from([-1.0, 0.5, float("-inf")])
        ),
        min_size=2,
        max_size=10,
    ).filter(lambda values: max(values) > float("-inf")),
    temperature=st.sampled_from([0.01, 0.3, 0.8, 1.0, 4.0]),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([0.07, 0.31, 0.53, 0.86, 0.97, 1.0]),
    penalty=st.sampled_from([0.5, 1.0, 1.2, 4.0]),
    past=st.lists(st.integers(0, 1), min_size=1, max_size=4),
)
def test_what_is_drawn_is_what_transformers_processors_leave(
    values, temperature, top_k, top_p, penalty, past
):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty)
    logits = torch.tensor(values)
    got, expected = shares(sampling, past, logits), reference(sampling, past, logits)
    scores = reference(replace(sampling, top_k=0, top_p=1.0), past, logits)
    if 0 < top_k < len(values):
        # transformers keeps more than top_k tokens where the last of them are equal; here it is top_k.
        order = scores.sort(descending=True).values
        if order[top_k - 1] == order[top_k]:
            assert int((got > 0).sum()) <= top_k
            return
    # Which of equal tokens top-p keeps is nobody's promise; how many is.
    for one in scores.unique():
        same = scores == one
        assert abs(float(got[same].sum() - expected[same].sum())) <= 2 * len(values) / NUMBERS
        if float(one) > 0 and float(expected[same].sum()) > 0.05:
            assert int((got[same] > 0).sum()) == int((expected[same] > 0).sum())


def test_equal_logits_stay_by_their_number_and_the_first_come_first():
    flat = torch.full((8,), -3.0)
    assert shares(Sampling(top_k=0, top_p=1.0), [0], flat).tolist() == [1 / 8] * 8
    for more in ({"top_k": 0, "top_p": 0.5}, {"top_k": 4, "top_p": 1.0}, {"top_k": 8, "top_p": 0.49}):
        assert shares(Sampling(**more), [0], flat).tolist() == [1 / 4] * 4 + [0] * 4


@pytest.mark.parametrize("top_k", [3, 50, 0])
def test_a_penalty_follows_the_text_for_longer_than_numbers_are_drawn_ahead(top_k):
    torch.manual_seed(3)
    own = [
        Sampling(seed=1, repetition_penalty=1.4, top_k=top_k, top_p=1.0),
        Sampling(seed=2, top_k=top_k),
        Sampling(seed=3, repetition_penalty=0.7, temperature=0),
    ]
    steps = torch.randn(AHEAD + 9, 3, 60)
    past = [[5], [1, 2, 3], [7, 7]]
    sample = BatchSampler([RowSampler(each) for each in own], [list(ids) for ids in past], CPU)
    streams = [RowSampler(each) for each in own]
    for logits in steps:
        tokens = sample(logits).tolist()
        assert tokens == sample_next_tokens(streams, past, logits)
        for ids, token in zip(past, tokens, strict=True):
            ids.append(token)
    assert past[2][2] == int(steps[0, 2].scatter(0, torch.tensor(7), float(steps[0, 2, 7]) / 0.7).argmax())


def test_a_penalty_is_the_processors_to_the_bit():
    torch.manual_seed(4)
    logits = torch.randn(4, 30) * 5
    past = torch.tensor([[3, 8, 8], [1, 2, 29], [0, 0, 0], [5, 6, 7]])
    penalties = torch.tensor([[1.3], [0.6], [5.0], [1.0]])
    got = module._penalised(logits, past, penalties)
    for row in range(4):
        process = RepetitionPenaltyLogitsProcessor(float(penalties[row]))
        torch.testing.assert_close(got[row], process(past[row : row + 1], logits[row : row + 1])[0])
    assert torch.equal(got[3], logits[3])


def test_numbers_drawn_ahead_are_those_drawn_one_by_one():
    one_by_one = torch.Generator().manual_seed(9)
    expected = [float(torch.rand((), generator=one_by_one)) for _ in range(200)]
    sampler = RowSampler(Sampling(seed=9))
    got = []
    for size in (1, 64, 3, 64, 20):
        got += sampler.ahead(size).tolist()
        assert sampler.ahead(size + 2).tolist()[:size] == got[-size:]
        sampler.skip(size)
    sampler.skip(10)
    assert got == expected[:152] and sampler.ahead(5).tolist() == expected[162:167]


@pytest.mark.parametrize("first", [1, 8, 10**9])
def test_how_many_tokens_are_looked_at_first_changes_nothing(first, monkeypatch):
    torch.manual_seed(5)
    logits = torch.cat([torch.randn(3, 400) * scale for scale in (0.01, 1, 6)])
    own = [Sampling(seed=seed, top_k=0, top_p=p) for seed, p in enumerate([0.2, 0.95, 0.999] * 3)]
    expected = sample_next_tokens([RowSampler(each) for each in own], [[0]] * 9, logits)
    monkeypatch.setattr(module, "FIRST", first)
    assert sample_next_tokens([RowSampler(each) for each in own], [[0]] * 9, logits) == expected


def test_outside_a_cpu_nothing_is_looked_at_by_the_host():
    """On the meta device there are shapes and no numbers: whoever asks for one fails."""
    meta = torch.device("meta")
    own = [
        Sampling(temperature=0),
        Sampling(),
        Sampling(top_k=0, top_p=0.9),
        Sampling(top_k=0, top_p=1.0, repetition_penalty=1.2),
        Sampling(top_k=7, top_p=1.0),
    ]
    sample = BatchSampler([RowSampler(each) for each in own], [[1]] * 5, meta)
    for _ in range(AHEAD + 2):
        tokens = sample(torch.empty(5, 97, dtype=torch.bfloat16, device=meta))
        assert tokens.shape == (5,) and tokens.device == meta


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 1.5, -1.5, 1e-40, -3e38, 3e38, float("-inf")]), min_size=40, max_size=90
    ),
    st.integers(1, 10),
    st.integers(0, 2**16),
)
def test_a_cpu_finds_the_likeliest_that_a_gpu_does_in_their_order(numbers, count, seed):
    random = torch.Generator().manual_seed(seed)
    scores = torch.stack([torch.tensor(numbers), torch.randn(len(numbers), generator=random).round()])
    expected = module._keys(scores).topk(count, dim=-1).indices
    assert torch.equal(module._likeliest(scores, count), expected)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_not_finite_spoil_no_search(number):
    scores = torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    expected = module._likeliest(scores[1:], 5)
    for place in (slice(None), slice(7, 8)):
        broken = scores.clone()
        broken[0, place] = number
        assert torch.equal(module._likeliest(broken, 5)[1:], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_row_can_be_drawn_from_in_any_type_unless_its_largest_is_not_finite(dtype):
    logits = torch.tensor(
        [[1.0, float("-inf"), 2.0], [float("nan"), 1, 2], [1, float("inf"), 2]], dtype=dtype
    )
    logits = torch.cat([logits, torch.full((1, 3), float("-inf"), dtype=dtype)])
    assert drawable(logits).tolist() == [True, False, False, False]
    assert drawable(logits[:, None]).shape == (4, 1) and bool(drawable(logits[0]))
    rows = [RowSampler(Sampling(temperature=0)) for _ in logits]
    assert sample_next_tokens(rows, [[0]] * 4, logits) == [2, NO_TOKEN, NO_TOKEN, NO_TOKEN]
