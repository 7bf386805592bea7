"""The loss of next tokens: its value and gradient are those of all logits at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from composer.model.token_loss import ROWS, mean_token_loss, plain_head
from tests.tools import tiny


def by_all_logits(hidden, head, labels):
    logits = F.linear(hidden, head)[:, :-1].flatten(0, 1)  # [B (T - 1), V]
    return F.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100)


@pytest.mark.parametrize("length", [5, ROWS])
def test_value_and_gradient_are_those_of_all_logits(length):
    torch.manual_seed(0)
    head, labels = torch.randn(50, 8), torch.randint(50, (3, length))
    labels[0, :3] = labels[2, -1] = -100
    found = []
    for loss in (mean_token_loss, by_all_logits):
        torch.manual_seed(1)
        hidden = (40 * torch.randn(3, length, 8)).requires_grad_()
        value = 3 * loss(hidden, head, labels)
        value.backward()
        found.append((value, hidden.grad))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    assert found[0][1].abs().max() > 0.01 and not found[0][1][0, :2].any()


def test_products_are_in_the_head_s_dtype_and_sums_in_float32():
    torch.manual_seed(0)
    head, labels = torch.randn(50, 8), torch.randint(50, (2, 9))
    hidden = torch.randn(2, 9, 8, requires_grad=True)
    loss = mean_token_loss(hidden, head.bfloat16(), labels)
    loss.backward()
    assert loss.dtype == hidden.grad.dtype == torch.float32
    expected = by_all_logits(hidden.detach(), head, labels)
    assert abs(loss.item() - expected) / expected < 0.02


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen2"])
def test_a_training_step_s_loss_is_transformers_own(family):
    model = tiny.model(family)
    ids = torch.randint(250, (2, 7))
    labels = ids.clone()
    labels[0, :3] = -100
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    head = plain_head(model.config, model.get_output_embeddings())
    with torch.no_grad():
        expected = model(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(mean_token_loss(hidden, head, labels), expected, rtol=1e-5, atol=1e-5)


def test_other_heads_are_left_to_transformers():
    config = tiny.FAMILIES["llama"]()
    assert plain_head(config, nn.Linear(8, 50)) is None  # a bias
    assert plain_head(config, None) is None
    assert plain_head(tiny.FAMILIES["gpt_neox"](), nn.Linear(8, 50, bias=False)) is None
    assert plain_head(config, nn.Linear(8, 50, bias=False)).shape == (50, 8)
