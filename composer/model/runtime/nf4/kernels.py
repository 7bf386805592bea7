"""Triton kernels of x W^T with W in bitsandbytes' nf4, and of the adapters' x A^T in the same launch.

W is packed as bitsandbytes packs it: uint8 [N, K / 2], two weights a byte, the first in the high nibble, and a
float32 absmax for every 64 weights of a row. A weight is code[nibble] * absmax. The kernels read the bytes as
words of 8 weights, int32 [N, K / 8].

On a card the time is in decoding, not in multiplying: an H100 has to decode 26 weights a clock and multiprocessor
to keep up with its memory, and a tree of selections takes 20 instructions a weight. A shuffle takes one: lane i of
a warp holds code[i % 16], and a lane asks the lane that the nibble names.

This module imports triton, so nothing else may import it before it is known to be there.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl

from composer.model.runtime.nf4.plan import FewRows, OneRow, Plan

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
# How a word is decoded. SELECT is plain Triton; SHUFFLE needs a card of NVIDIA's.
SELECT, SHUFFLE = 0, 1
DECODES = {"select": SELECT, "shuffle": SHUFFLE}
# The type of x. Halves are read in pairs, as integers.
KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def _shuffle_asm() -> str:
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


_ASM = tl.constexpr(_shuffle_asm())
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
def _decode(words, DECODE: tl.constexpr):
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


@triton.jit
def _half(bits, KIND: tl.constexpr):
    """The lower 16 bits of each integer as a number."""
    if KIND == 2:
        return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _eight(x_ptr, start, blocks, BLOCKS: tl.constexpr, KIND: tl.constexpr):
    """x at the 8 features of each word, as 8 tensors [BLOCKS, 8], from block `start` on."""
    block = start + tl.arange(0, BLOCKS)
    word = block[:, None] * 8 + tl.arange(0, 8)[None, :]
    mask = (block < blocks)[:, None]
    if KIND == 0:
        at = x_ptr + word * 8
        return (
            tl.load(at, mask=mask, other=0.0),
            tl.load(at + 1, mask=mask, other=0.0),
            tl.load(at + 2, mask=mask, other=0.0),
            tl.load(at + 3, mask=mask, other=0.0),
            tl.load(at + 4, mask=mask, other=0.0),
            tl.load(at + 5, mask=mask, other=0.0),
            tl.load(at + 6, mask=mask, other=0.0),
            tl.load(at + 7, mask=mask, other=0.0),
        )
    else:
        at = x_ptr.to(tl.pointer_type(tl.int64)) + word * 2
        first = tl.load(at, mask=mask, other=0)
        second = tl.load(at + 1, mask=mask, other=0)
        return (
            _half(first, KIND),
            _half(first >> 16, KIND),
            _half(first >> 32, KIND),
            _half(first >> 48, KIND),
            _half(second, KIND),
            _half(second >> 16, KIND),
            _half(second >> 32, KIND),
            _half(second >> 48, KIND),
        )


@triton.jit
def _one_row_of_a(
    x_ptr, a_ptr, scale_ptr, z_ptr, features, rank, first,
    WIDTH: tl.constexpr, STEP: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """z at the WIDTH rows of A from `first` on."""
    row = first + tl.arange(0, WIDTH)
    inside = row < rank
    total = tl.zeros((WIDTH, STEP), dtype=tl.float32)
    for start in range(0, features, STEP):
        k = start + tl.arange(0, STEP)
        x = tl.load(x_ptr + k, mask=k < features, other=0.0).to(tl.float32)
        mask = inside[:, None] & (k < features)[None, :]
        a = tl.load(a_ptr + row[:, None] * features + k[None, :], mask=mask, other=0.0).to(tl.float32)
        total += a * x[None, :]
    z = tl.sum(total, axis=1)
    if SCALE:
        z *= tl.load(scale_ptr + row, mask=inside, other=0.0).to(tl.float32)
    tl.store(z_ptr + row, z.to(z_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _of_row(words, absmax, x, DECODE: tl.constexpr):
    """What each word of a row of W adds to the output, [BLOCKS, 8]."""
    x0, x1, x2, x3, x4, x5, x6, x7 = x
    c0, c1, c2, c3, c4, c5, c6, c7 = _decode(words, DECODE)
    part = c0 * x0
    part += c1 * x1
    part += c2 * x2
    part += c3 * x3
    part += c4 * x4
    part += c5 * x5
    part += c6 * x6
    part += c7 * x7
    return part * absmax[:, None]


@triton.jit
def _read_row(words_ptr, absmax_ptr, row, outputs, start, blocks, BLOCKS: tl.constexpr):
    """A row's words, [BLOCKS, 8], and absmax, [BLOCKS], from block `start` on; zeros for a row too many."""
    block = start + tl.arange(0, BLOCKS)
    mask = block < tl.where(row < outputs, blocks, 0)
    word = block[:, None] * 8 + tl.arange(0, 8)[None, :]
    words = tl.load(words_ptr + row * (blocks * 8) + word, mask=mask[:, None], other=0)
    return words, tl.load(absmax_ptr + row * blocks + block, mask=mask, other=0.0)


@triton.jit
def _write_row(total, bias_ptr, out_ptr, row, outputs, BIAS: tl.constexpr):
    inside = row < outputs
    out = tl.sum(tl.reshape(total, (total.shape[0] * 8,)), axis=0)
    if BIAS:
        out += tl.load(bias_ptr + row, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _one_row_of_w(
    x_ptr, words_ptr, absmax_ptr, bias_ptr, out_ptr, outputs, features, first,
    BLOCKS: tl.constexpr, DECODE: tl.constexpr, KIND: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """The output at four rows of W from `first` on.

    The rows are separate variables of x's shape, so that Triton gives them x's layout: as one tensor they would
    have one of their own, and x would pass through shared memory in every step.
    """
    blocks = features // 64
    row1, row2, row3 = first + 1, first + 2, first + 3
    w0, s0 = _read_row(words_ptr, absmax_ptr, first, outputs, 0, blocks, BLOCKS)
    w1, s1 = _read_row(words_ptr, absmax_ptr, row1, outputs, 0, blocks, BLOCKS)
    w2, s2 = _read_row(words_ptr, absmax_ptr, row2, outputs, 0, blocks, BLOCKS)
    w3, s3 = _read_row(words_ptr, absmax_ptr, row3, outputs, 0, blocks, BLOCKS)
    t0 = tl.zeros((BLOCKS, 8), dtype=tl.float32)
    t1 = tl.zeros((BLOCKS, 8), dtype=tl.float32)
    t2 = tl.zeros((BLOCKS, 8), dtype=tl.float32)
    t3 = tl.zeros((BLOCKS, 8), dtype=tl.float32)
    for start in range(0, blocks, BLOCKS):
        x = _eight(x_ptr, start, blocks, BLOCKS, KIND)
        # What the next step reads is on its way while this one computes.
        later = start + BLOCKS
        nw0, ns0 = _read_row(words_ptr, absmax_ptr, first, outputs, later, blocks, BLOCKS)
        nw1, ns1 = _read_row(words_ptr, absmax_ptr, row1, outputs, later, blocks, BLOCKS)
        nw2, ns2 = _read_row(words_ptr, absmax_ptr, row2, outputs, later, blocks, BLOCKS)
        nw3, ns3 = _read_row(words_ptr, absmax_ptr, row3, outputs, later, blocks, BLOCKS)
        t0 += _of_row(w0, s0, x, DECODE)
        t1 += _of_row(w1, s1, x, DECODE)
        t2 += _of_row(w2, s2, x, DECODE)
        t3 += _of_row(w3, s3, x, DECODE)
        w0, w1, w2, w3, s0, s1, s2, s3 = nw0, nw1, nw2, nw3, ns0, ns1, ns2, ns3
    _write_row(t0, bias_ptr, out_ptr, first, outputs, BIAS)
    _write_row(t1, bias_ptr, out_ptr, row1, outputs, BIAS)
    _write_row(t2, bias_ptr, out_ptr, row2, outputs, BIAS)
    _write_row(t3, bias_ptr, out_ptr, row3, outputs, BIAS)


@triton.jit(do_not_specialize=["rank", "rank_programs"])
def one_row_kernel(
    x_ptr,  # [K]
    words_ptr,  # [N, K / 8]
    absmax_ptr,  # [N, K / 64]
    a_ptr,  # [R, K]
    bias_ptr,  # [N]
    scale_ptr,  # [R]
    out_ptr,  # [N]
    z_ptr,  # [R]
    outputs,
    features,
    rank,
    rank_programs,
    BLOCKS: tl.constexpr,
    RANK_WIDTH: tl.constexpr,
    RANK_STEP: tl.constexpr,
    DECODE: tl.constexpr,
    KIND: tl.constexpr,
    BIAS: tl.constexpr,
    SCALE: tl.constexpr,
):
    """The first `rank_programs` programs have RANK_WIDTH rows of A each, the others four rows of W."""
    program = tl.program_id(0)
    if program < rank_programs:
        _one_row_of_a(
            x_ptr, a_ptr, scale_ptr, z_ptr, features, rank, program * RANK_WIDTH,
            RANK_WIDTH, RANK_STEP, SCALE,
        )  # fmt: skip
    else:
        _one_row_of_w(
            x_ptr, words_ptr, absmax_ptr, bias_ptr, out_ptr, outputs, features,
            (program - rank_programs) * 4, BLOCKS, DECODE, KIND, BIAS,
        )  # fmt: skip


@triton.jit
def _dot(w, x, total, KIND: tl.constexpr, INTERPRETED: tl.constexpr):
    if KIND == 0 or INTERPRETED:  # the interpreter does not multiply bfloat16
        return tl.dot(w.to(tl.float32), x.to(tl.float32), total, input_precision="ieee")
    else:
        return tl.dot(w, x, total)


@triton.jit
def _turned(x_ptr, k, end, rows, features, ROWS: tl.constexpr):
    """x^T at the features k, before `end`: [k, ROWS]."""
    m = tl.arange(0, ROWS)
    mask = (k < end)[:, None] & (m < rows)[None, :]
    return tl.load(x_ptr + m[None, :] * features + k[:, None], mask=mask, other=0.0)


@triton.jit
def _few_rows_of_a(
    x_ptr, a_ptr, row, begin, end, rows, features, rank,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr,
    KIND: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """A x^T over K from `begin` to `end`: [WIDTH, ROWS]."""
    total = tl.zeros((WIDTH, ROWS), dtype=tl.float32)
    for start in range(begin, end, STEP):
        k = start + tl.arange(0, STEP)
        mask = (row < rank)[:, None] & (k < end)[None, :]
        a = tl.load(a_ptr + row[:, None] * features + k[None, :], mask=mask, other=0.0)
        x = _turned(x_ptr, k, end, rows, features, ROWS)
        total = _dot(a, x, total, KIND, INTERPRETED)
    return total


@triton.jit
def _few_rows_of_w(
    x_ptr, words_ptr, absmax_ptr, row, begin, end, rows, outputs, features,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr, DECODE: tl.constexpr,
    KIND: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """W x^T over K from `begin` to `end`: [WIDTH, ROWS]."""
    kind: tl.constexpr = x_ptr.dtype.element_ty
    blocks = features // 64
    block = tl.arange(0, STEP // 64)
    word = block[:, None] * 8 + tl.arange(0, 8)[None, :]  # [STEP / 64, 8]
    w_at = words_ptr + row[:, None, None] * (blocks * 8) + word[None, :, :]
    s_at = absmax_ptr + row[:, None] * blocks + block[None, :]
    total = tl.zeros((WIDTH, ROWS), dtype=tl.float32)
    for start in range(begin, end, STEP):
        mask = (row < outputs)[:, None] & (start + block * 64 < end)[None, :]
        words = tl.load(w_at + (start // 64) * 8, mask=mask[:, :, None], other=0)
        absmax = tl.load(s_at + start // 64, mask=mask, other=0.0)[:, :, None]
        x = _turned(x_ptr, start + tl.arange(0, STEP), end, rows, features, ROWS)
        c0, c1, c2, c3, c4, c5, c6, c7 = _decode(words, DECODE)
        # Rounded to the type of x, as bitsandbytes rounds what it dequantises.
        w0, w1 = (c0 * absmax).to(kind), (c1 * absmax).to(kind)
        w2, w3 = (c2 * absmax).to(kind), (c3 * absmax).to(kind)
        w4, w5 = (c4 * absmax).to(kind), (c5 * absmax).to(kind)
        w6, w7 = (c6 * absmax).to(kind), (c7 * absmax).to(kind)
        even = tl.join(tl.join(w0, w4), tl.join(w2, w6))
        odd = tl.join(tl.join(w1, w5), tl.join(w3, w7))
        w = tl.reshape(tl.join(even, odd), (WIDTH, STEP))
        total = _dot(w, x, total, KIND, INTERPRETED)
    return total


@triton.jit(do_not_specialize=["rows", "rank", "rank_tiles"])
def few_rows_kernel(
    x_ptr,  # [M, K]
    words_ptr,  # [N, K / 8]
    absmax_ptr,  # [N, K / 64]
    a_ptr,  # [R, K]
    bias_ptr,  # [N]
    scale_ptr,  # [M, R]
    out_ptr,  # [M, N]
    z_ptr,  # [M, R]
    sums_ptr,  # [splits, M, N + R]
    rows,
    outputs,
    features,
    rank,
    rank_tiles,
    span,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    STEP: tl.constexpr,
    DECODE: tl.constexpr,
    KIND: tl.constexpr,
    BIAS: tl.constexpr,
    SCALE: tl.constexpr,
    SPLIT: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Program (i, j): tile i of WIDTH rows, of A for the first `rank_tiles` and else of W, by part j of K."""
    kind: tl.constexpr = x_ptr.dtype.element_ty
    tile, part = tl.program_id(0), tl.program_id(1)
    begin = part * span
    end = tl.minimum(begin + span, features)
    m = tl.arange(0, ROWS)
    if tile < rank_tiles:
        row = tile * WIDTH + tl.arange(0, WIDTH)
        z = _few_rows_of_a(
            x_ptr, a_ptr, row, begin, end, rows, features, rank,
            ROWS, WIDTH, STEP, KIND, INTERPRETED,
        )  # fmt: skip
        mask = (row < rank)[:, None] & (m < rows)[None, :]
        if SPLIT:
            at = (part * rows + m[None, :]) * (outputs + rank) + outputs + row[:, None]
            tl.store(sums_ptr + at, z, mask=mask)
        else:
            at = m[None, :] * rank + row[:, None]
            if SCALE:
                z *= tl.load(scale_ptr + at, mask=mask, other=0.0).to(tl.float32)
            tl.store(z_ptr + at, z.to(kind), mask=mask)
    else:
        row = (tile - rank_tiles) * WIDTH + tl.arange(0, WIDTH)
        out = _few_rows_of_w(
            x_ptr, words_ptr, absmax_ptr, row, begin, end, rows, outputs, features,
            ROWS, WIDTH, STEP, DECODE, KIND, INTERPRETED,
        )  # fmt: skip
        mask = (row < outputs)[:, None] & (m < rows)[None, :]
        if SPLIT:
            at = (part * rows + m[None, :]) * (outputs + rank) + row[:, None]
            tl.store(sums_ptr + at, out, mask=mask)
        else:
            if BIAS:
                out += tl.load(bias_ptr + row, mask=row < outputs, other=0.0).to(tl.float32)[:, None]
            tl.store(out_ptr + m[None, :] * outputs + row[:, None], out.to(kind), mask=mask)


@triton.jit(do_not_specialize=["rows", "rank", "splits"])
def sum_kernel(
    sums_ptr,  # [splits, M, N + R]
    bias_ptr,  # [N]
    scale_ptr,  # [M, R]
    out_ptr,  # [M, N]
    z_ptr,  # [M, R]
    rows,
    outputs,
    rank,
    splits,
    WIDTH: tl.constexpr,
    BIAS: tl.constexpr,
    SCALE: tl.constexpr,
):
    """The parts of K added up, in the same order every time. Program (i, m): WIDTH columns of row m."""
    m = tl.program_id(1)
    column = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    inside = column < outputs + rank
    total = tl.zeros((WIDTH,), dtype=tl.float32)
    for split in range(splits):
        total += tl.load(
            sums_ptr + (split * rows + m) * (outputs + rank) + column, mask=inside, other=0.0
        )
    ours, theirs = column < outputs, inside & (column >= outputs)
    if BIAS:
        total += tl.load(bias_ptr + column, mask=ours, other=0.0).to(tl.float32)
    if SCALE:
        gate = tl.load(scale_ptr + m * rank + column - outputs, mask=theirs, other=1.0).to(tl.float32)
        total *= gate
    done = total.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + m * outputs + column, done, mask=ours)
    tl.store(z_ptr + m * rank + column - outputs, done, mask=theirs)


def product(
    x: torch.Tensor,  # [M, K], float32, float16 or bfloat16
    packed: torch.Tensor,  # [N, K / 2] uint8
    absmax: torch.Tensor,  # [N, K / 64] float32
    A: torch.Tensor,  # [R, K], as x
    bias: torch.Tensor | None,  # [N]
    scale: torch.Tensor | None,  # [M, R]
    plan: Plan,
    decode: int = SHUFFLE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """x W^T + bias, [M, N], and (x A^T) * scale, [M, R]. plan: one of composer.model.runtime.nf4.plan.plans."""
    x, A = _aligned(x), A.contiguous()
    out, z = x.new_empty(len(x), len(packed)), x.new_empty(len(x), len(A))
    # A pointer is needed where there is nothing to point to; the kernels do not follow it.
    tensors = (
        x,
        packed.view(torch.int32),
        absmax,
        A,
        out if bias is None else bias,
        z if scale is None else scale.contiguous(),
        out,
        z,
    )
    extras = {"BIAS": bias is not None, "SCALE": scale is not None}
    if isinstance(plan, OneRow):
        _one_row(tensors, plan, DECODE=decode, KIND=KINDS[x.dtype], **extras)
    else:
        _few_rows(tensors, plan, {"DECODE": decode, "KIND": KINDS[x.dtype]}, extras)
    return out, z


def _aligned(x: torch.Tensor) -> torch.Tensor:
    """Contiguous, and at an address of 16 bytes: it is read in words of 8."""
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _one_row(tensors: tuple[torch.Tensor, ...], plan: OneRow, **constants: int) -> None:
    x, words, _, A, *_ = tensors
    rank_programs = triton.cdiv(len(A), plan.rank_width)
    one_row_kernel[(rank_programs + triton.cdiv(len(words), 4),)](
        *tensors,
        len(words),
        x.shape[1],
        len(A),
        rank_programs,
        BLOCKS=plan.blocks,
        RANK_WIDTH=plan.rank_width,
        RANK_STEP=plan.rank_step,
        num_warps=plan.warps,
        **constants,
    )


def _few_rows(
    tensors: tuple[torch.Tensor, ...], plan: FewRows, constants: dict[str, int], extras: dict[str, bool]
) -> None:
    x, words, _, A, bias, scale, out, z = tensors
    (rows, features), outputs, rank = x.shape, len(words), len(A)
    rank_tiles, split = triton.cdiv(rank, plan.width), plan.splits > 1
    sums = x.new_empty(plan.splits, rows, outputs + rank, dtype=torch.float32) if split else out
    few_rows_kernel[(rank_tiles + triton.cdiv(outputs, plan.width), plan.splits)](
        *tensors,
        sums,
        rows,
        outputs,
        features,
        rank,
        rank_tiles,
        plan.span,
        ROWS=plan.rows,
        WIDTH=plan.width,
        STEP=plan.step,
        SPLIT=split,
        INTERPRETED=os.environ.get("TRITON_INTERPRET") == "1",
        num_warps=plan.warps,
        num_stages=plan.stages,
        **constants,
        **extras,
    )
    if split:
        sum_kernel[(triton.cdiv(outputs + rank, 256), rows)](
            *(sums, bias, scale, out, z, rows, outputs, rank, plan.splits), WIDTH=256, num_warps=4, **extras
        )
