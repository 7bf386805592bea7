"""A base's tokenizer, looked at before any library reads it: sizes, types, ids, and what would run for ever.

The libraries trust the files: a normalizer may make gigabytes of a word, a regex or a chat template run for
years, and a file name lead out of the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from composer.model.checkpoints.tokenizer_rules import slow_regex, slow_template

# In bytes: Gemma's tokenizer.json has 33 million, no other file of a tokenizer more than a few.
LARGEST = {
    "tokenizer.json": 64_000_000,
    "tokenizer_config.json": 8_000_000,
    "special_tokens_map.json": 1_000_000,
    "added_tokens.json": 8_000_000,
    "vocab.json": 32_000_000,
    "merges.txt": 32_000_000,
    "tokenizer.model": 64_000_000,
    "tekken.json": 64_000_000,
    "chat_template.jinja": 500_000,
    "chat_template.json": 500_000,
    "config.json": 1_000_000,
    "generation_config.json": 1_000_000,
}
# The greatest id of a token, and characters of one.
LARGEST_ID, LONGEST_TOKEN = 2**24, 2000
# Characters of what replaces another text, and how many times as long all replacements may make a text.
LONGEST_REPLACEMENT, GROWTH = 256, 10_000
# Tokens that a text may be filled up with.
FILLED = 2**20


class TokenizerFault(ValueError):
    """What is wrong with a tokenizer's files, as the end of a sentence."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder.

    Raises TokenizerFault for files that no tokenizer should be made of, and what transformers raises.
    """
    check_tokenizer_files(folder)
    with without_panics():
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def without_panics() -> Iterator[None]:
    """A panic in the tokenizers library is raised as TokenizerFault.

    It is no Exception, so that nobody else would catch it, and its class cannot be imported.
    """
    try:
        yield
    except BaseException as fault:
        if type(fault).__name__ != "PanicException":
            raise
        raise TokenizerFault("its tokenizer cannot be read") from fault


def check_tokenizer_files(folder: Path) -> None:
    """Raise TokenizerFault for files that are too large, damaged, or would take unbounded time or memory."""
    for name, limit in LARGEST.items():
        path = folder / name
        if path.exists() and (not path.is_file() or path.stat().st_size > limit):
            raise TokenizerFault(f"its {name} is no file of at most {limit / 1e6:.10g} MB")
    settings = _document(folder / "tokenizer_config.json")
    _check_settings(settings, folder)
    for template in (*_templates(settings.get("chat_template")), *_written_templates(folder)):
        if reason := slow_template(template):
            raise TokenizerFault(f"its chat template {reason}")
    document = _document(folder / "tokenizer.json")
    if document:
        _check_tokens(document)
        _check_rules(document)


def _document(path: Path) -> Mapping[str, Any]:
    """The mapping in a file; an empty one where there is no file."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise TokenizerFault(f"its {path.name} is damaged or cut short") from None
    if not isinstance(found, dict):
        raise TokenizerFault(f"its {path.name} is no mapping")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _check_settings(settings: Mapping[str, Any], folder: Path) -> None:
    for key, value in settings.items():
        if not key.endswith(("_file", "_files")) or value is None or key == "special_tokens_map_file":
            continue
        # transformers writes down where a tokenizer came from, and does not look there if the file is here.
        if key == "tokenizer_file" and (folder / "tokenizer.json").is_file():
            continue
        names = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise TokenizerFault(f"its tokenizer_config.json names files of another folder ({key[:40]!a})")
    kind = settings.get("tokenizer_class")
    if kind is not None and not isinstance(kind, str):
        raise TokenizerFault("its tokenizer_config.json has no name for the kind of tokenizer")
    _check_added(settings.get("added_tokens_decoder"), "tokenizer_config.json")


def _check_added(decoder: object, name: str) -> None:
    if decoder is None:
        return
    if not isinstance(decoder, dict):
        raise TokenizerFault(f"the added tokens of its {name} are no mapping")
    for number, token in decoder.items():
        if not number.isascii() or not number.isdigit() or len(number) > 8 or int(number) > LARGEST_ID:
            raise TokenizerFault(f"an added token of its {name} has no id, or one out of range")
        if not isinstance(token, dict) or not _is_token(token.get("content")):
            raise TokenizerFault(f"an added token of its {name} is no text, or longer than {LONGEST_TOKEN}")


def _check_tokens(document: Mapping[str, Any]) -> None:
    model, added = document.get("model"), document.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):
        pairs = [each if isinstance(each, list) and len(each) == 2 else [None, 0] for each in vocabulary]
        tokens, ids = [token for token, _ in pairs], list(range(len(pairs)))
    elif isinstance(vocabulary, dict):
        tokens, ids = list(vocabulary), list(vocabulary.values())
    else:
        raise TokenizerFault("its tokenizer.json has no vocabulary")
    added = [] if added is None else added
    if not isinstance(added, list) or not all(isinstance(each, dict) for each in added):
        raise TokenizerFault("the added tokens of its tokenizer.json are no list")
    if not all(map(_is_token, (*tokens, *(each.get("content") for each in added)))):
        raise TokenizerFault(f"a token is no text, or longer than {LONGEST_TOKEN} characters")
    own = [each.get("id") for each in added]
    if not all(type(each) is int and 0 <= each <= LARGEST_ID for each in (*ids, *own)):
        raise TokenizerFault("a token of its tokenizer.json has no id, or one out of range")
    if len(set(ids)) < len(ids) or len(set(own)) < len(own):
        raise TokenizerFault("two tokens of its tokenizer.json have one id")


def _is_token(content: object) -> bool:
    return isinstance(content, str) and len(content) <= LONGEST_TOKEN


def _check_rules(document: Mapping[str, Any]) -> None:
    growth = 1.0
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        for rule in _mappings(document.get(part)):
            growth *= _growth(rule)
            pattern = rule.get("Regex")
            if isinstance(pattern, str) and (reason := slow_regex(pattern)):
                raise TokenizerFault(f"a pattern of its tokenizer.json {reason}")
    if growth > GROWTH:
        raise TokenizerFault("its tokenizer.json makes texts many times as long")
    for rule in (*_mappings(document.get("padding")), *_mappings(document.get("truncation"))):
        for key, value in rule.items():
            if type(value) in (int, float) and not 0 <= value <= FILLED:
                raise TokenizerFault(f"the {key[:40]!a} of its tokenizer.json is out of range")


def _growth(rule: Mapping[str, Any]) -> float:
    """How many times as long a rule can make a text."""
    kind = rule.get("type")
    new = rule.get(
        {"Replace": "content", "Prepend": "prepend"}.get(kind, "") if isinstance(kind, str) else ""
    )
    if not isinstance(new, str):
        return 1.0
    if len(new) > LONGEST_REPLACEMENT:
        raise TokenizerFault(
            f"its tokenizer.json puts in texts of more than {LONGEST_REPLACEMENT} characters"
        )
    old = rule.get("pattern")
    old = old.get("String") if isinstance(old, dict) else None
    if kind == "Prepend":
        return 1.0
    # A regex may match an empty text between any two characters.
    return max(1.0, len(new) / len(old)) if isinstance(old, str) and old else 1.0 + len(new)


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    """Every mapping in a document, itself too. No JSON that was read is too deep for this."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _templates(value: object) -> Sequence[str]:
    """A chat template, or several with names."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    named = value if isinstance(value, list) else [value]
    found = [each.get("template") if isinstance(each, dict) else None for each in named]
    if not all(isinstance(each, str) for each in found):
        raise TokenizerFault("its chat template is no text")
    return [each for each in found if isinstance(each, str)]


def _written_templates(folder: Path) -> Iterator[str]:
    for path in (folder / "chat_template.jinja", *sorted(folder.glob("additional_chat_templates/*.jinja"))):
        if path.is_file():
            if path.stat().st_size > LARGEST["chat_template.jinja"]:
                raise TokenizerFault(f"its {path.name} is too large")
            try:
                yield path.read_text("utf-8")
            except ValueError:
                raise TokenizerFault("its chat template is no text") from None
