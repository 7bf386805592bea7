"""Reads the labels of texts with a language model that was trained to say them (see classifier)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from composer.adapters.bank import AdapterBank
from composer.adapters.fit.mapping import base_names
from composer.adapters.reading import Reader
from composer.core.catalog_types import AdapterSpec
from composer.core.errors import ComposerError
from composer.model.gated_model import GatedModel
from composer.model.lens import final_norm
from composer.model.loading import Base
from composer.model.runtime.select import select_runner
from composer.training.classifier import LabelPrompt

# Tokens read in one pass.
PASS = 4096


class LabelReader:
    """A base with an adapter of `train_classifier`. The base's Linear layers are wrapped.

    folder: the adapter's. Raises ComposerError where it does not fit the base.
    """

    def __init__(self, prompt: LabelPrompt, base: Base, folder: Path):
        self.labels = prompt.labels
        self._prompt, self._tokenizer = prompt, base.tokenizer
        self._model = GatedModel(base.model)
        reader = Reader(self._model.sites, base_names(base.model), base.device, base.dtype)
        report, factors = reader.read(AdapterSpec(folder.name, str(folder)), own=True)
        if not report.ok:
            raise ComposerError(f"The classifier in {folder.name} cannot be used: {report}")
        self._layout = self._model.layout(AdapterBank().add(folder.name, factors))
        self._runner = select_runner(self._model)
        norm, head = final_norm(base.model), base.model.get_output_embeddings()
        if norm is None or head is None:
            raise ComposerError(f"The base {base.id} has no final norm or head that was found.")
        # The answers' logits alone: those of a large vocabulary cost more than all layers.
        self._norm, self._answers = norm, head.weight[prompt.tokens(base.tokenizer)]  # [K, d]

    def labels_of(self, texts: Sequence[str]) -> list[str]:
        """The likeliest label of each text."""
        return [self.labels[place] for place in self(texts).argmax(dim=1).tolist()]

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """The log probability of each label, [texts, labels] float32."""
        prompts = [self._prompt.encode(self._tokenizer, text) for text in texts]
        scores = torch.empty(len(prompts), len(self.labels))  # [B, K]
        for places in _passes(prompts):
            chosen = [prompts[place] for place in places]
            gates = torch.ones(len(chosen), self._model.layers, 1)  # [B, L, N]
            read = self._runner.read(self._layout, gates.to(self._model.device), chosen, unembed=False)
            logits = self._norm(read.hidden[-1]) @ self._answers.T  # [B, K]
            scores[places] = logits.float().log_softmax(dim=1).cpu()
        return scores


def _passes(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """The prompts' places by length, as many at a time as make a pass."""
    places: list[int] = []
    for place in sorted(range(len(prompts)), key=lambda place: len(prompts[place])):
        if places and (len(places) + 1) * len(prompts[place]) > PASS:
            yield places
            places = []
        places.append(place)
    if places:
        yield places
