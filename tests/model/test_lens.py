"""Divergences of the logit lens, read a part of the vocabulary at a time, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from composer.model import lens as module
from composer.model.lens import FARTHEST, Lens, streamed_kl
from tests.tools import tiny

ROWS, WIDTH = 4, 12


def reference(hidden: torch.Tensor, head: nn.Linear) -> torch.Tensor:
    """[l, N] float64 from whole distributions of the head's own logits."""
    logs = head(hidden).double().log_softmax(dim=-1).unflatten(0, (-1, ROWS))
    p, q = logs[:, :1], logs[:, 1:]
    return (p.exp() * (p - q)).sum(dim=-1)


@pytest.mark.parametrize("words", [1, 7, 100, 5000, 10**6])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 8.0])
@torch.no_grad()
def test_the_divergence_is_that_of_whole_distributions(words, bias, scale):
    torch.manual_seed(0)
    vocabulary = 300 if words < 100 else 6001
    head = nn.Linear(WIDTH, vocabulary, bias=bias)
    base = torch.randn(5, 1, WIDTH) * scale
    hidden = (base + torch.randn(5, ROWS, WIDTH) * torch.tensor([0, 0, 0.1, 1])[:, None] * scale).flatten(
        0, 1
    )
    got, expected = streamed_kl(hidden, head, ROWS, words), reference(hidden, head)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)
    assert float(got[:, 0].abs().max()) < 1e-6


@torch.no_grad()
def test_logits_far_apart_lose_nothing_to_cancellation():
    """The same distribution with all logits higher by a thousand, and one where one word has it all."""
    torch.manual_seed(1)
    head = nn.Linear(3, 900, bias=False)
    head.weight[:, 1] = 1000.0
    head.weight[:, 2] = 0.0
    head.weight[640, 2] = 1e30
    hidden = torch.tensor([[1.0, 0, 0], [1.0, 0.001, 0], [0.5, 1, 0], [1, 0, 1]])
    got = streamed_kl(hidden, head, ROWS, 128)
    torch.testing.assert_close(got.double(), reference(hidden, head), rtol=1e-5, atol=1e-4)
    assert float(got[0, 0]) < 1e-5 and float(got[0, 2]) > 1e29


@pytest.fixture
def both(monkeypatch):
    """The lens of a tiny base as a CPU reads it, and in parts as a GPU does."""
    model = tiny.model("llama")
    whole, parts = Lens(model), Lens(model)
    parts._words = model.get_output_embeddings()
    monkeypatch.setattr(module, "GPU_WORDS", 50)
    monkeypatch.setattr(module, "GPU_ROWS", 9)
    return whole, parts, model.config.hidden_size


@pytest.mark.parametrize("norm", [True, False])
def test_in_parts_as_in_whole(both, norm):
    whole, parts, width = both
    torch.manual_seed(2)
    hidden = [torch.randn(ROWS, width) * (layer + 1) for layer in range(6)]
    expected = whole.divergence(hidden, norm)
    assert expected.shape == (6, 3)
    torch.testing.assert_close(parts.divergence(hidden, norm), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("which", [0, 1])
def test_what_overflows_is_infinitely_far_and_the_others_keep_their_numbers(both, which):
    for lens in both[:2]:
        torch.manual_seed(3)
        hidden = [torch.randn(ROWS, both[2]) for _ in range(3)]
        calm = lens.divergence([each.clone() for each in hidden], False)
        hidden[0][2] = float("nan")
        hidden[1][2] = float("inf")
        hidden[2][2] = 3e38
        got = lens.divergence(hidden, False)
        assert (got[:, 1] == FARTHEST).all()
        torch.testing.assert_close(got[:, [0, 2]], calm[:, [0, 2]], atol=1e-5, rtol=1e-5)
        hidden[which][0] = float("nan")
        assert (lens.divergence(hidden, False)[which] == FARTHEST).all()


@torch.no_grad()
def test_no_more_logits_than_asked_for_exist_at_once(monkeypatch):
    sizes = []
    plainly = module.F.linear

    def watched(x, weight, bias=None):
        out = plainly(x, weight, bias)
        sizes.append(out.numel())
        return out

    monkeypatch.setattr(module.F, "linear", watched)
    streamed_kl(torch.randn(8, WIDTH), nn.Linear(WIDTH, 1000), ROWS, 256)
    assert sizes == [8 * 256] * 3 + [8 * 232]
