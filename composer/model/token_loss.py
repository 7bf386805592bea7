"""The loss of next tokens without all of their logits at once.

A vocabulary of 262,144 (Gemma 3) has two thirds of a small base's parameters, and transformers takes its
logits at every position, in float32, several times over. Here positions without a label cost nothing, and the
others' gradients are made where their logits still are (as in Cut Your Losses, Wijmans et al. 2024, arXiv
2411.09009). torch.nn.functional.linear_cross_entropy does so from torch 2.13 on; in bfloat16 on a CPU it took
ten times as long as all logits at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig

# Logits of so many positions are held at a time.
ROWS = 128
# Families whose logits are the head's product and nothing else: no soft cap, scale or bias.
PLAIN_HEADS = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma3_text"})


class _MeanTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        gradient, total = torch.empty_like(hidden), hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            logits = F.linear(hidden[rows].to(head.dtype), head).float()  # [R, V]
            target = targets[rows, None]  # [R, 1]
            logits -= logits.amax(1, keepdim=True)
            own = logits.gather(1, target)  # [R, 1]
            # In place: at this size a pass over memory costs as much as a tenth of the product.
            chances = logits.exp_()  # [R, V]
            sums = chances.sum(1, keepdim=True)  # [R, 1]
            total += (sums.log() - own).sum()
            chances /= sums
            chances.scatter_add_(1, target, chances.new_full(target.shape, -1.0))
            gradient[rows] = chances.to(head.dtype) @ head
        ctx.save_for_backward(gradient.div_(len(hidden)))
        return total / len(hidden)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None


def mean_token_loss(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of each position's next label, where there is one.

    hidden: [B, T, d], what the head reads. head: [V, d]; it gets no gradient, and products are in its dtype.
    labels: [B, T], -100 where there is none.
    """
    following = F.pad(labels[:, 1:], (0, 1), value=-100)  # [B, T]
    counted = following != -100
    loss: Tensor = _MeanTokenLoss.apply(hidden[counted], head, following[counted])
    return loss


def plain_head(config: PretrainedConfig, head: nn.Module | None) -> Tensor | None:
    """The output layer's weight, [V, d], where the loss may be taken from it; None where a base has more."""
    plain = config.model_type in PLAIN_HEADS and type(head) is nn.Linear and head.bias is None
    return head.weight.detach() if plain and isinstance(head, nn.Linear) else None
