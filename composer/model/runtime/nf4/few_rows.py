"""The kernels for 2 to 32 rows: a matrix by a narrow matrix, on the tensor cores."""
# ruff: noqa: PLR0913 -- a kernel takes its pointers and sizes one by one

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl

from composer.model.runtime.nf4.decode import decode
from composer.model.runtime.nf4.plan import FewRows


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
    ROWS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr,
    KIND: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """A x^T over K from `begin` to `end`: [WIDTH, ROWS]."""
    total = tl.zeros((WIDTH, ROWS), dtype=tl.float32)
    for start in range(begin, end, CHUNK):
        k = start + tl.arange(0, CHUNK)
        mask = (row < rank)[:, None] & (k < end)[None, :]
        a = tl.load(a_ptr + row[:, None] * features + k[None, :], mask=mask, other=0.0)
        x = _turned(x_ptr, k, end, rows, features, ROWS)
        total = _dot(a, x, total, KIND, INTERPRETED)
    return total


@triton.jit
def _few_rows_of_w(
    x_ptr, words_ptr, absmax_ptr, row, begin, end, rows, outputs, features,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, DECODE: tl.constexpr,
    KIND: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """W x^T over K from `begin` to `end`: [WIDTH, ROWS]."""
    kind: tl.constexpr = x_ptr.dtype.element_ty
    blocks = features // 64
    block = tl.arange(0, CHUNK // 64)
    word = block[:, None] * 8 + tl.arange(0, 8)[None, :]  # [CHUNK / 64, 8]
    w_at = words_ptr + row[:, None, None] * (blocks * 8) + word[None, :, :]
    s_at = absmax_ptr + row[:, None] * blocks + block[None, :]
    total = tl.zeros((WIDTH, ROWS), dtype=tl.float32)
    for start in range(begin, end, CHUNK):
        mask = (row < outputs)[:, None] & (start + block * 64 < end)[None, :]
        words = tl.load(w_at + (start // 64) * 8, mask=mask[:, :, None], other=0)
        absmax = tl.load(s_at + start // 64, mask=mask, other=0.0)[:, :, None]
        x = _turned(x_ptr, start + tl.arange(0, CHUNK), end, rows, features, ROWS)
        c0, c1, c2, c3, c4, c5, c6, c7 = decode(words, DECODE)
        # Rounded to the type of x, as bitsandbytes rounds what it dequantises.
        w0, w1 = (c0 * absmax).to(kind), (c1 * absmax).to(kind)
        w2, w3 = (c2 * absmax).to(kind), (c3 * absmax).to(kind)
        w4, w5 = (c4 * absmax).to(kind), (c5 * absmax).to(kind)
        w6, w7 = (c6 * absmax).to(kind), (c7 * absmax).to(kind)
        even = tl.join(tl.join(w0, w4), tl.join(w2, w6))
        odd = tl.join(tl.join(w1, w5), tl.join(w3, w7))
        w = tl.reshape(tl.join(even, odd), (WIDTH, CHUNK))
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
    CHUNK: tl.constexpr,
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
            ROWS, WIDTH, CHUNK, KIND, INTERPRETED,
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
            ROWS, WIDTH, CHUNK, DECODE, KIND, INTERPRETED,
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
        total += tl.load(sums_ptr + (split * rows + m) * (outputs + rank) + column, mask=inside, other=0.0)
    ours, theirs = column < outputs, inside & (column >= outputs)
    if BIAS:
        total += tl.load(bias_ptr + column, mask=ours, other=0.0).to(tl.float32)
    if SCALE:
        gate = tl.load(scale_ptr + m * rank + column - outputs, mask=theirs, other=1.0).to(tl.float32)
        total *= gate
    done = total.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + m * outputs + column, done, mask=ours)
    tl.store(z_ptr + m * rank + column - outputs, done, mask=theirs)


def launch_few_rows(
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
        CHUNK=plan.step,
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
