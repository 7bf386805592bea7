"""The kernel for one row: a matrix by a vector, on the ordinary cores."""
# ruff: noqa: PLR0913 -- a kernel takes its pointers and sizes one by one

from __future__ import annotations

import torch
import triton
import triton.language as tl

from composer.model.runtime.nf4.decode import decode
from composer.model.runtime.nf4.plan import OneRow


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
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    """z at the WIDTH rows of A from `first` on."""
    row = first + tl.arange(0, WIDTH)
    inside = row < rank
    total = tl.zeros((WIDTH, CHUNK), dtype=tl.float32)
    for start in range(0, features, CHUNK):
        k = start + tl.arange(0, CHUNK)
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
    c0, c1, c2, c3, c4, c5, c6, c7 = decode(words, DECODE)
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

    The rows are separate variables of x's shape, so that Triton gives them x's layout: as one tensor they
    would have one of their own, and x would pass through shared memory in every step.
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
    RANK_CHUNK: tl.constexpr,
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
            RANK_WIDTH, RANK_CHUNK, SCALE,
        )  # fmt: skip
    else:
        _one_row_of_w(
            x_ptr, words_ptr, absmax_ptr, bias_ptr, out_ptr, outputs, features,
            (program - rank_programs) * 4, BLOCKS, DECODE, KIND, BIAS,
        )  # fmt: skip


def launch_one_row(tensors: tuple[torch.Tensor, ...], plan: OneRow, **constants: int) -> None:
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
        RANK_CHUNK=plan.rank_step,
        num_warps=plan.warps,
        **constants,
    )
