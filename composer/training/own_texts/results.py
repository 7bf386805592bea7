"""What a run on own texts measured, as its card, its folder and the shell tell it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Results:
    """Counts and losses (nats per token) of one run."""

    tokens: int
    # Texts.
    held_out: int
    steps: int
    passes: float
    training_loss: float
    # On the held-out texts, of the base alone and with the adapter at weight 1.
    loss_before: float
    loss_after: float
    # Longest runs of words shared with the training texts: of 20 continuations, and of held-out texts.
    shared_words: int
    held_out_words: int
    recites: bool

    @property
    def repeats(self) -> str:
        return "yes" if self.recites else "no"

    def sentences(self) -> list[str]:
        """What to tell whoever trained it."""
        told = [
            f"loss on held-out texts: {self.loss_before:.2f} -> {self.loss_after:.2f}",
            f"repeats training text: {self.repeats} (longest run of shared words: {self.shared_words}; "
            f"held-out texts: {self.held_out_words})",
        ]
        # So that one that is no number is told too.
        if not self.loss_after < self.loss_before:
            told.append("The loss did not fall: train with fewer --steps, or on more texts.")
        if self.recites:
            told.append("It repeats what it was trained on: train with fewer --steps, or on more texts.")
        return told
