"""The smallest GGUF file that a base can be made of, as a document that tests change before it is packed."""

from __future__ import annotations

import math
import struct
from typing import Any

from gguf import GGUF_MAGIC, GGUFValueType

WIDTH, INNER, HEADS = 4, 4, 2
# Bytes as GPT-2's alphabet writes them, and one that ends a text.
TOKENS = [*"abcdefgh", "\u0120", "ab", "<end>"]
F32, F16, Q8_0 = 0, 1, 8
MOST = 4096

_CODES = {"U8": "B", "U16": "H", "U32": "I", "I32": "i", "U64": "Q", "F32": "f", "BOOL": "B"}
_KINDS = {
    "U8": GGUFValueType.UINT8,
    "U16": GGUFValueType.UINT16,
    "U32": GGUFValueType.UINT32,
    "I32": GGUFValueType.INT32,
    "U64": GGUFValueType.UINT64,
    "F32": GGUFValueType.FLOAT32,
    "BOOL": GGUFValueType.BOOL,
    "STRING": GGUFValueType.STRING,
    "ARRAY": GGUFValueType.ARRAY,
}


def document() -> dict[str, Any]:
    """A Llama of one layer in float32.

    fields: key -> [kind, value]; a list is ["ARRAY", [kind, values]] or, with a length of its own, ["ARRAY",
    [kind, values, length]]. tensors: name -> [shape, type], and an offset where it is not the next place.
    """
    matrix = [[WIDTH, WIDTH], F32]
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    return {
        "magic": GGUF_MAGIC,
        "version": 3,
        "fields": {
            "general.architecture": ["STRING", "llama"],
            "general.name": ["STRING", "tiny"],
            "general.alignment": ["U32", 32],
            "llama.block_count": ["U32", 1],
            "llama.context_length": ["U32", 64],
            "llama.embedding_length": ["U32", WIDTH],
            "llama.feed_forward_length": ["U32", INNER],
            "llama.attention.head_count": ["U32", HEADS],
            "llama.attention.head_count_kv": ["U32", HEADS],
            "llama.attention.layer_norm_rms_epsilon": ["F32", 1e-5],
            "llama.rope.freq_base": ["F32", 10000.0],
            "llama.rope.dimension_count": ["U32", WIDTH // HEADS],
            "tokenizer.ggml.model": ["STRING", "gpt2"],
            "tokenizer.ggml.tokens": ["ARRAY", ["STRING", list(TOKENS)]],
            "tokenizer.ggml.token_type": ["ARRAY", ["I32", [1] * (len(TOKENS) - 1) + [3]]],
            "tokenizer.ggml.merges": ["ARRAY", ["STRING", ["a b"]]],
            "tokenizer.ggml.eos_token_id": ["U32", len(TOKENS) - 1],
            "tokenizer.ggml.bos_token_id": ["U32", len(TOKENS) - 1],
        },
        "tensors": {
            "token_embd.weight": [[WIDTH, len(TOKENS)], F32],
            "blk.0.attn_norm.weight": [[WIDTH], F32],
            "blk.0.ffn_norm.weight": [[WIDTH], F32],
            "output_norm.weight": [[WIDTH], F32],
            **{f"blk.0.{name}.weight": matrix for name in names},
        },
    }


def pack(given: dict[str, Any], data: int | None = None) -> bytes:
    """The bytes of a document. Numbers are cut to their kind's size.

    data: so many bytes of weights instead of as many as there should be, which are at most MOST.
    """
    fields, tensors = given["fields"], given["tensors"]
    counts = given.get("tensor_count", len(tensors)), given.get("key_count", len(fields))
    head = _number("U32", given["magic"]) + _number("U32", given["version"])
    head += b"".join(_number("U64", each) for each in counts)
    for key, (kind, value) in fields.items():
        head += _text(key) + _typed(kind, value)
    place = 0
    for name, (shape, kind, *offset) in tensors.items():
        head += _text(name) + _number("U32", len(shape)) + b"".join(_number("U64", each) for each in shape)
        head += _number("U32", kind) + _number("U64", offset[0] if offset else place)
        place += -(-4 * math.prod(shape) // 32) * 32
    head += bytes(-len(head) % 32)
    # Weights that are not 0, so that nothing is taken for missing.
    weights = struct.pack("<f", 0.125) * (min(max(place, 0), MOST) // 4 if data is None else data // 4)
    return head + weights


def _typed(kind: Any, value: Any) -> bytes:
    return _number("U32", _KINDS.get(kind, kind)) + _value(kind, value)


def _value(kind: Any, value: Any) -> bytes:
    if kind == "STRING":
        return _text(value)
    if kind == "ARRAY":
        own, values, *length = value
        body = b"".join(_value(own, each) for each in values)
        number = _KINDS.get(own, own)
        return _number("U32", number) + _number("U64", length[0] if length else len(values)) + body
    return _number(kind if kind in _CODES else "U64", value)


def _number(kind: str, value: Any) -> bytes:
    code = _CODES[kind]
    if code == "f":
        return struct.pack("<f", value)
    return (int(value) % 2 ** (8 * struct.calcsize(code))).to_bytes(struct.calcsize(code), "little")


def _text(value: Any) -> bytes:
    data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data
