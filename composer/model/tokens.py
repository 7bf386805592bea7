"""Between text and tokens: prompts in, growing continuations out."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from composer.core.catalog_types import BaseSpec
from composer.core.errors import ComposerError, sanitize

log = logging.getLogger(__name__)

# Half a character of UTF-8 has at most so many bytes.
HALF = 3
# So many tokens back, whatever stands there belongs to another character, even in a text of broken ones.
ENOUGH = 16
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def encode_prompt(tokenizer, prompt: str, prompting: str) -> list[int]:
    """Token ids of a prompt: as plain text to continue, or as a user's turn of a chat.

    Raises ComposerError for a prompt that the tokenizer, or its chat template, cannot take.
    """
    chat = prompting == "chat"
    reader = "chat template" if chat else "tokenizer"
    with tokenizer_faults(
        f"The base's {reader} cannot take this prompt; change it, or type other characters."
    ):
        if chat:
            turn = [{"role": "user", "content": prompt}]
            ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)[
                "input_ids"
            ]
        else:
            ids = tokenizer(prompt)["input_ids"]
        return [int(token) for token in ids]


def check_tokenizer(tokenizer, spec: BaseSpec, vocabulary: int) -> None:
    """Raise ComposerError, once for all prompts, for a tokenizer or a chat template that cannot be used.

    vocabulary: how many tokens the base has embeddings for.
    """
    size, ids = getattr(tokenizer, "vocab_size", None), None
    unusable = f"The base {spec.name} has no tokenizer that can be used"
    with tokenizer_faults(f"{unusable}; choose another base, or delete its cached copy and start again."):
        ids = list(tokenizer("Hello there.")["input_ids"])
        tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if spec.prompting == "chat":
        ids += _chat_trial(tokenizer, spec)
    if not ids:
        raise ComposerError(f"{unusable}: it finds nothing in a plain text; choose another base.")
    if max(ids) >= vocabulary or (isinstance(size, int) and size > vocabulary):
        raise ComposerError(
            f"The tokenizer of the base {spec.name} has more tokens than its model, which has {vocabulary}; "
            "they do not belong together, so correct the base's folder, or choose another base."
        )


def _chat_trial(tokenizer, spec: BaseSpec) -> list[int]:
    cure = f"set `prompting: plain` for it in the catalog (bases, {spec.name})"
    if not getattr(tokenizer, "chat_template", None):
        raise ComposerError(
            f"The base {spec.name} is to be prompted by chat, but its tokenizer has no chat template; {cure}."
        )
    try:
        return encode_prompt(tokenizer, "Hello there.", "chat")
    except ComposerError as fault:
        raise ComposerError(
            f"The base {spec.name} is to be prompted by chat, but its chat template fails; {cure}."
        ) from fault


@contextmanager
def tokenizer_faults(sentence: str) -> Iterator[None]:
    """Whatever a tokenizer or template raises inside becomes a ComposerError with this sentence."""
    try:
        yield
    except ComposerError:
        raise
    except BaseException as fault:
        # A panic in the tokenizers library is no Exception, and its class cannot be imported.
        if not isinstance(fault, Exception) and type(fault).__name__ != "PanicException":
            raise
        log.warning("tokenizer: %s: %s", type(fault).__name__, str(fault)[:200])
        raise ComposerError(sentence) from fault


def read_prompt(
    tokenizer, prompt: object, prompting: str, limit: int, vocabulary: int | None = None
) -> list[int]:
    """Token ids of what somebody typed; ComposerError if it is no text, empty or over `limit` tokens.

    vocabulary: how many tokens the base has embeddings for; some tokenizers know a few more.
    """
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
    if not ids:
        raise ComposerError("The base's tokenizer finds nothing in this prompt; type it in other characters.")
    if vocabulary is not None and max(ids) >= vocabulary:
        name = sanitize(tokenizer.convert_ids_to_tokens(max(ids)))
        raise ComposerError(f"The prompt has a token that this base does not know, {name}; leave it out.")
    return ids


class Continuation:
    """Turns drawn tokens into text, without the prompt: the pieces joined are what decoding prompt and
    tokens in one go adds to the prompt's own text.

    Only a window of the last tokens is decoded at each step, so the work is linear in the text's length. The
    window always holds a token that shows something, since many decoders treat a text's first token as
    special, and it never begins inside a character.
    """

    def __init__(self, tokenizer, prompt: Sequence[int], ends: frozenset[int]):
        self._tokenizer, self._ends = tokenizer, ends
        self.text = ""
        # The window's tokens, and how many characters of its text are shown already.
        self._window, self._shown = self._lead(prompt), 0
        # The end of the prompt's text as it is without a continuation; None once the text has gone past it.
        self._before: str | None = self._decode(self._window)
        # Those of the window that came since it was last shortened.
        self._fresh: list[int] = []
        # Whether the window ends in byte tokens.
        self._bytes = bool(self._window) and self._is_byte(self._window[-1])

    def push(self, token: int, *, last: bool) -> str:
        """Add a token; returns the characters it completed (none for half a character).

        last: nothing follows, so half a character is shown as it stands.
        """
        if token not in self._ends and not self._is_skipped(token):
            self._window.append(token)
            self._fresh.append(token)
            self._bytes = self._is_byte(token)
        # A run of byte tokens means nothing before it ends: one wrong byte makes all of them U+FFFD.
        if self._bytes and not last:
            return ""
        whole = self._decode(self._window)
        # Half a character at the end is decoded to one to three U+FFFD.
        settled = whole if last else whole[: max(len(whole) - HALF, len(whole.rstrip("\ufffd")))]
        piece = self._beyond_shown(settled)
        self.text += piece
        if not last and self._before is None:
            self._shorten(len(whole) - len(settled))
        return piece

    def _beyond_shown(self, settled: str) -> str:
        if self._before is not None:
            # Half a character at the prompt's end may have become a whole one, which is the continuation's.
            common = _common(self._before, settled)
            if common == len(settled):
                return ""
            self._before, self._shown = None, common
        piece = settled[self._shown :]
        self._shown = max(self._shown, len(settled))
        return piece

    def _shorten(self, withheld: int) -> None:
        """Leave out of the window what no longer has a say in how the tokens to come are decoded.

        withheld: how many characters at the end of the window's text are not shown yet.
        """
        if withheld == 0:
            text = self._decode(self._fresh)
            if text.strip("\ufffd"):
                self._window, self._shown, self._fresh = self._fresh, len(text), []
        elif len(self._fresh) > 2 * ENOUGH:
            self._fresh = self._fresh[-ENOUGH:]
            self._window = list(self._fresh)
            self._shown = len(self._decode(self._window)) - withheld

    def _lead(self, prompt: Sequence[int]) -> list[int]:
        """The end of the prompt, as much of it as has a say in how a continuation is decoded."""
        seen, place = 0, len(prompt)
        while place and seen < ENOUGH:
            place -= 1
            if not self._is_byte(prompt[place]):
                text = self._decode([prompt[place]])
                if text.strip("\ufffd"):
                    break
                seen += bool(text)
        return [token for token in prompt[place:] if not self._is_skipped(token)]

    def _is_byte(self, token: int) -> bool:
        """Whether it is one byte of a character that the vocabulary lacks (SentencePiece's byte fallback)."""
        return BYTE.fullmatch(self._name(token) or "") is not None

    def _is_skipped(self, token: int) -> bool:
        """Whether decoding leaves it out: a special token, or padding of the embedding without a name."""
        if self._name(token) is None:
            return True
        return not self._decode([token]) and bool(self._decode([token], special=True))

    def _name(self, token: int) -> str | None:
        try:
            return self._tokenizer.convert_ids_to_tokens(token)
        except (LookupError, TypeError, ValueError, OverflowError):
            return None  # tokenizers in Python raise for what they do not have

    def _decode(self, ids: list[int], special: bool = False) -> str:
        with tokenizer_faults("The base's tokenizer cannot read the drawn tokens back; try another seed."):
            return self._tokenizer.decode(
                ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False
            )


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
