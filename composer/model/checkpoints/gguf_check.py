"""Whether a GGUF file describes one base: its metadata, its tensors and its vocabulary have to agree.

transformers makes modules by the metadata before it looks at a tensor. A number that no tensor bears out
would have it make a model of any size, and draw at random what the file lacks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from composer.model.checkpoints.gguf_header import (
    GgufArray,
    GgufFault,
    GgufHeader,
    is_count,
    read_gguf_header,
)

# Of one layer; the number is the layer's.
BLOCK = re.compile(r"blk\.(\d{1,5})\.")
EMBEDDING = "token_embd.weight"
# Sizes that need not be any tensor's: how far a base looks.
LENGTHS = (
    "context_length",
    "sliding_window",
    "original_context_length",
    "rope.scaling.original_context_length",
)
LONGEST = 2**31 - 1
ONE_A_TOKEN = ("tokenizer.ggml.scores", "tokenizer.ggml.token_type")


def check_gguf(path: Path) -> None:
    """Raise GgufFault for a file that no base can be made of, in seconds and without reading its weights."""
    header = read_gguf_header(path)
    family = header.fields.get("general.architecture")
    if not isinstance(family, str) or not re.fullmatch(r"[a-z0-9_-]{1,40}", family):
        raise GgufFault("it does not say of which family its base is")
    if EMBEDDING not in header.tensors:
        raise GgufFault("it has no embedding of tokens")
    _check_sizes(header, family)
    _check_heads(header, family)
    _check_vocabulary(header, family)
    _check_types(header)


def _check_sizes(header: GgufHeader, family: str) -> None:
    blocks = {int(found[1]) for name in header.tensors if (found := BLOCK.match(name))}
    if not blocks or not len(blocks) == max(blocks) + 1 == _size(header, family, "block_count"):
        raise GgufFault("its metadata says another number of layers than it has tensors for")
    if _size(header, family, "embedding_length") != header.tensors[EMBEDDING].shape[0]:
        raise GgufFault("its metadata says another width than its embedding has")
    widest = max(max(each.shape) for each in header.tensors.values())
    for key, value in _numbers(header, family):
        if not 0 <= value <= (LONGEST if key in LENGTHS else max(widest, 256)):
            raise GgufFault(f"its {key} is larger than any of its tensors, or below 0")
    if _size(header, family, "context_length", default=1) < 1:
        raise GgufFault("its context_length is 0")
    for key in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"):
        if not 0 < _float(header, f"{family}.{key}", default=1e-5) < 1:
            raise GgufFault(f"its {key} is not between 0 and 1")
    if _float(header, f"{family}.rope.freq_base", default=1e4) <= 0:
        raise GgufFault("its rope.freq_base is not above 0")


def _numbers(header: GgufHeader, family: str) -> Iterator[tuple[str, int]]:
    """The family's whole numbers, those in lists too."""
    for key, value in header.fields.items():
        start, _, rest = key.partition(".")
        values = value.values if isinstance(value, GgufArray) else (value,)
        if start == family:
            yield from ((rest, each) for each in values if type(each) is int)


def _check_heads(header: GgufHeader, family: str) -> None:
    heads, width = _each(header, family, "attention.head_count"), header.tensors[EMBEDDING].shape[0]
    shared = _each(header, family, "attention.head_count_kv", default=heads[0])
    if min(heads) < 1 or min(shared) < 0:
        raise GgufFault("it has a layer without attention heads")
    if any(own > count or (own and count % own) for own in shared for count in heads if len(heads) == 1):
        raise GgufFault("its heads do not share keys and values evenly")
    key = _size(header, family, "attention.key_length", default=width // heads[0])
    query = header.tensors.get("blk.0.attn_q.weight")
    if key < 1 or (query is not None and len(query.shape) == 2 and query.shape[1] != heads[0] * key):
        raise GgufFault("its metadata says other attention heads than its tensors have")


def _check_vocabulary(header: GgufHeader, family: str) -> None:
    tokens = header.fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, GgufArray) or not tokens.length:
        raise GgufFault("it has no tokens")
    shape = header.tensors[EMBEDDING].shape
    rows = _size(header, family, "vocab_size", default=tokens.length)
    if len(shape) != 2 or shape[1] not in (rows, tokens.length) or tokens.length > shape[1]:
        raise GgufFault("it has other tokens than its embedding")
    for key in ONE_A_TOKEN:
        own = header.fields.get(key)
        if own is not None and not (isinstance(own, GgufArray) and own.length == tokens.length):
            raise GgufFault(f"its {key} is not one for each token")
    for key, value in header.fields.items():
        is_id = key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
        if is_id and (not is_count(value) or value >= tokens.length):
            raise GgufFault(f"its {key} is none of its tokens")


def _check_types(header: GgufHeader) -> None:
    for kind in {each.kind for each in header.tensors.values()}:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        plain = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}
        own = np.zeros(block, plain[kind]) if kind in plain else np.zeros(size, np.uint8)
        try:
            gguf.dequantize(own, kind)
        except NotImplementedError:
            raise GgufFault(f"its weights are of the type {kind.name}, which is not read here") from None


def _size(header: GgufHeader, family: str, key: str, default: int | None = None) -> int:
    value = header.fields.get(f"{family}.{key}", default)
    if not is_count(value):
        raise GgufFault(f"its {key} is no whole number")
    return value


def _each(header: GgufHeader, family: str, key: str, default: int | None = None) -> tuple[int, ...]:
    """A number for all layers, or one for each."""
    value = header.fields.get(f"{family}.{key}", default)
    values = value.values if isinstance(value, GgufArray) else (value,)
    if not values or not all(type(each) is int for each in values):
        raise GgufFault(f"its {key} is no whole number")
    return values


def _float(header: GgufHeader, key: str, default: float) -> float:
    value = header.fields.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise GgufFault(f"its {key.partition('.')[2]} is no number")
    return value
