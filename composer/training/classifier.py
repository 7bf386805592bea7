"""Labelled text -> a LoRA adapter with which a language model says a text's label in one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Trainer

from composer.core.errors import ComposerError
from composer.model.loading import Base
from composer.model.tokens import encode_prompt
from composer.training.data import Row
from composer.training.trainer import add_lora, newest_checkpoint, save_adapter, training_arguments


@dataclass(frozen=True)
class LabelPrompt:
    """What follows a text, so that the language model says its label in the next token."""

    # Follows the text.
    words: str
    # Label -> the answer, one token.
    answers: Mapping[str, str]
    # So many tokens of the text are read, the first ones.
    length: int = 96

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted(self.answers))

    def encode(self, tokenizer, text: str) -> list[int]:
        """The token ids of the text and what follows it."""
        ids = encode_prompt(tokenizer, text, "plain")[: self.length]
        return ids + tokenizer(self.words, add_special_tokens=False)["input_ids"]

    def tokens(self, tokenizer) -> list[int]:
        """The answers' tokens in the order of the labels. Raises ComposerError unless they are one each."""
        answers = [self.answers[label] for label in self.labels]
        found = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
        if any(len(ids) != 1 for ids in found) or len({ids[0] for ids in found}) < len(found):
            raise ComposerError(
                f"This base has no single token for each of {', '.join(self.answers.values())}; "
                "choose another base for the judge."
            )
        return [ids[0] for ids in found]


@dataclass(frozen=True)
class ClassifierTraining:
    """How such an adapter is trained."""

    rank: int = 8
    alpha: float = 16
    learning_rate: float = 5e-4
    batch: int = 24  # texts a step
    epochs: float = 1
    warmup: float = 0.05  # share of the steps
    seed: int = 7
    save_every: int = 50  # steps


def train_classifier(
    prompt: LabelPrompt,
    base: Base,
    rows: Sequence[Row],
    training: ClassifierTraining,
    folder: Path,
    work: Path,
) -> Path:
    """Train on the rows, whose labels are the prompt's, and write the adapter to `folder`.

    The loss is the cross entropy between the answers alone: the model chooses between the labels, not among
    all words. Checkpoints go to `work`; a run that was cut off goes on from the newest one. The base is
    changed by PEFT: load a fresh one for anything else.
    """
    answers = torch.tensor(prompt.tokens(base.tokenizer))  # [K]
    model = add_lora(base, training.rank, training.alpha, 0.0, training.seed)
    place = {label: index for index, label in enumerate(prompt.labels)}
    samples = [
        {"input_ids": prompt.encode(base.tokenizer, row.text), "label": place[row.label]} for row in rows
    ]
    steps = max(round(training.epochs * len(rows) / training.batch), 1)
    arguments = training_arguments(
        base,
        work,
        steps=steps,
        batch=training.batch,
        learning_rate=training.learning_rate,
        warmup=training.warmup,
        seed=training.seed,
        save_every=training.save_every,
        train_sampling_strategy="group_by_length",
    )
    trainer = _AnswerTrainer(model=model, args=arguments, train_dataset=samples, data_collator=_collate)
    trainer.answers = answers.to(base.device)
    trainer.train(resume_from_checkpoint=newest_checkpoint(work))
    save_adapter(model, folder, base)
    return folder


class _AnswerTrainer(Trainer):
    """Trainer with the loss of `train_classifier`."""

    answers: torch.Tensor

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        wanted = inputs.pop("labels")  # [B]
        causal = model.get_base_model()
        outputs = causal.base_model(**inputs, use_cache=False)
        # The answers' logits alone: those of a large vocabulary cost more than all layers.
        head = causal.get_output_embeddings().weight[self.answers]  # [K, d]
        chosen = (outputs.last_hidden_state[:, -1] @ head.T).float()  # [B, K]
        loss = -chosen.log_softmax(1).gather(1, wanted[:, None]).mean()
        return (loss, outputs) if return_outputs else loss


def _collate(samples: Sequence[Mapping]) -> dict[str, torch.Tensor]:
    """Padded on the left, so that every text ends in the last column."""
    width = max(len(sample["input_ids"]) for sample in samples)
    ids = torch.zeros(len(samples), width, dtype=torch.long)  # [B, T]
    mask = torch.zeros_like(ids)  # [B, T]
    for row, sample in enumerate(samples):
        length = len(sample["input_ids"])
        ids[row, width - length :] = torch.tensor(sample["input_ids"])
        mask[row, width - length :] = 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        "labels": torch.tensor([sample["label"] for sample in samples]),
    }
