"""Between text and tokens: prompts in, growing continuations out."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from composer.spec import ComposerError


def encode_prompt(tokenizer, prompt: str, prompting: str) -> list[int]:
    """Token ids of a prompt: as plain text to continue, or as a user's turn of a chat."""
    if prompting == "chat":
        turn = [{"role": "user", "content": prompt}]
        return tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"]
    return tokenizer(prompt)["input_ids"]


def read_prompt(tokenizer, prompt: object, prompting: str, limit: int) -> list[int]:
    """Token ids of what somebody typed; ComposerError if it is no text, empty or over `limit` tokens."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ComposerError("The prompt is empty; type a few words for the model to continue.")
    if any(unicodedata.category(char) == "Cs" for char in prompt):
        raise ComposerError(
            "The prompt has broken characters (lone surrogates); type it again as plain text."
        )
    # No tokenizer merges more than a few dozen characters: refuse a flood before tokenising it.
    ids = encode_prompt(tokenizer, prompt, prompting) if len(prompt) <= 64 * limit else None
    if ids is None or len(ids) > limit:
        size = f"{len(ids)} tokens" if ids is not None else f"{len(prompt)} characters"
        raise ComposerError(f"The prompt is too long ({size}); shorten it to at most {limit} tokens.")
    return ids


class Continuation:
    """Turns drawn tokens into text, without the prompt and without breaking characters in half."""

    def __init__(self, tokenizer, prompt: Sequence[int], ends: frozenset[int]):
        self._tokenizer, self._ends = tokenizer, ends
        # A few prompt tokens in front, because some tokenizers drop the space of a text's first word.
        self._lead = list(prompt[-4:])
        self._before = self._decode(self._lead)
        self._tokens: list[int] = []
        self.text = ""

    def push(self, token: int, *, last: bool) -> str:
        """Add a token; returns the characters it completed (none for half a character).

        last: nothing follows, so half a character is shown as it stands.
        """
        if token not in self._ends:
            self._tokens.append(token)
        text = self._decode(self._lead + self._tokens)[len(self._before) :]
        if not last:
            text = text.rstrip("\ufffd")
        piece, self.text = text[len(self.text) :], text
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
