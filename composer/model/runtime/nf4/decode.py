"""How a Triton kernel decodes nf4.

W is packed as bitsandbytes packs it: uint8 [N, K / 2], two weights a byte, the first in the high nibble, and
a float32 absmax for every 64 weights of a row. A weight is CODE[nibble] * absmax. The kernels read the bytes
as words of 8 weights, int32 [N, K / 8].

On a card the time is in decoding, not in multiplying. To keep up with its memory an H100 has to decode 26
weights a clock and multiprocessor, and a tree of selections takes a dozen instructions a weight. A shuffle
takes one: lane i of a warp holds CODE[i % 16], and a lane asks the lane that the nibble names.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# bitsandbytes.functional.get_4bit_type("nf4").
CODE = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)  # fmt: skip

# SELECT is plain Triton; SHUFFLE needs a card of NVIDIA's.
SELECT, SHUFFLE = 0, 1
DECODES = {"select": SELECT, "shuffle": SHUFFLE}


def shuffle_asm() -> str:
    """PTX: one word, $8, to its 8 weights' codes, $0 to $7, in the order of K.

    The lane's own code is computed in the same text, since Triton may move a tensor's elements to other lanes
    between two texts. The assembler recognises that it is the same for all words, and computes it once.
    """
    bits = [f"0f{_bits(value):08X}" for value in CODE]
    lines = [
        "{",
        ".reg .b32 lane, bit, turned;",
        ".reg .f32 code<16>;",
        ".reg .pred odd<4>;",
        "mov.u32 lane, %laneid;",
    ]
    for level in range(4):
        lines += [f"and.b32 bit, lane, {1 << level};", f"setp.ne.b32 odd{level}, bit, 0;"]
    for place in range(8):
        lines.append(f"selp.f32 code{place}, {bits[2 * place + 1]}, {bits[2 * place]}, odd0;")
    for level, count in ((1, 4), (2, 2), (3, 1)):
        for place in range(count):
            lines.append(f"selp.f32 code{place}, code{2 * place + 1}, code{2 * place}, odd{level};")
    for place in range(8):
        shift = 4 * (place ^ 1)
        # Of the index, the instruction reads the last four bits: 0x101f makes two halves of a warp.
        lines.append(f"shr.u32 turned, $8, {shift};")
        lines.append(f"shfl.sync.idx.b32 ${place}, code0, turned, 0x101f, 0xffffffff;")
    return "\n".join([*lines, "}"])


def _bits(value: float) -> int:
    return torch.tensor(value, dtype=torch.float32).view(torch.int32).item() & 0xFFFFFFFF


_ASM = tl.constexpr(shuffle_asm())
_OUTPUTS = tl.constexpr("=f,=f,=f,=f,=f,=f,=f,=f,r")


@triton.jit
def _select(nibble):
    """The code of each nibble, by the bits of the nibble."""
    b0 = (nibble & 1) != 0
    b1 = (nibble & 2) != 0
    b2 = (nibble & 4) != 0
    b3 = (nibble & 8) != 0
    c0 = tl.where(b0, -0.6961928009986877, -1.0)
    c1 = tl.where(b0, -0.39491748809814453, -0.5250730514526367)
    c2 = tl.where(b0, -0.18477343022823334, -0.28444138169288635)
    c3 = tl.where(b0, 0.0, -0.09105003625154495)
    c4 = tl.where(b0, 0.16093020141124725, 0.07958029955625534)
    c5 = tl.where(b0, 0.33791524171829224, 0.24611230194568634)
    c6 = tl.where(b0, 0.5626170039176941, 0.44070982933044434)
    c7 = tl.where(b0, 1.0, 0.7229568362236023)
    low = tl.where(b2, tl.where(b1, c3, c2), tl.where(b1, c1, c0))
    high = tl.where(b2, tl.where(b1, c7, c6), tl.where(b1, c5, c4))
    return tl.where(b3, high, low)


@triton.jit
def decode(words, DECODE: tl.constexpr):
    """The codes of the words' 8 weights, in the order of K."""
    if DECODE == 1:
        return tl.inline_asm_elementwise(
            _ASM,
            _OUTPUTS,
            [words],
            dtype=(
                tl.float32,
                tl.float32,
                tl.float32,
                tl.float32,
                tl.float32,
                tl.float32,
                tl.float32,
                tl.float32,
            ),
            is_pure=True,
            pack=1,
        )
    else:
        return (
            _select(words >> 4),
            _select(words),
            _select(words >> 12),
            _select(words >> 8),
            _select(words >> 20),
            _select(words >> 16),
            _select(words >> 28),
            _select(words >> 24),
        )
