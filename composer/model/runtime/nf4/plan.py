"""How a product is divided into programs: pure functions of its shape.

The sizes are for cards of 80 to 170 multiprocessors with 1.5 to 5 TB/s (sm_80 to sm_100).
"""

from __future__ import annotations

from dataclasses import dataclass

# Weights that share an absmax.
BLOCK = 64
# The most rows that the kernels take; above, dequantising once costs less than decoding for each tile.
MOST_ROWS = 32
# Two programs for each of an H100's 132 multiprocessors, so that one computes while another waits.
ENOUGH_PROGRAMS = 264
# The least K of a split: below, starting a program costs more than its share.
LEAST_SPLIT = 512


@dataclass(frozen=True)
class OneRow:
    """How x W^T is computed for one row: a program has four rows of W, and unpacks x once for them all."""

    # Blocks of K in one step of a program.
    blocks: int
    # Rows of A in a program, and the part of K that it reads in one step.
    rank_width: int
    rank_step: int
    warps: int


@dataclass(frozen=True)
class FewRows:
    """How x W^T is computed for 2 to MOST_ROWS rows."""

    # Rows of x, padded to what a tensor core takes.
    rows: int
    # Rows of W or of A in a program.
    width: int
    # K in one step of a program.
    step: int
    # Parts of K, each of `span`, that are summed by a second kernel (1: none).
    splits: int
    span: int
    warps: int
    stages: int


Plan = OneRow | FewRows


def plans(rows: int, outputs: int, features: int, size: int = 2) -> tuple[Plan, ...]:
    """The plans worth timing for x W^T beside x A^T, the one that most likely wins first.

    rows: of x; outputs: N and R together; features: K; size: bytes of a number of x.
    """
    if rows == 1:
        return tuple(one_row(features, warps) for warps in (2, 1, 4))
    shapes = [(64, rows), (128, rows)]
    if rows <= 8:  # before 3.5 Triton takes no fewer than 16
        shapes.append((64, 16))
    return tuple(few_rows(padded, outputs, features, width, size) for width, padded in shapes)


def one_row(features: int, warps: int) -> OneRow:
    """A thread has four words of 8 weights, so that it reads 16 bytes of a row at a time, and all threads lie
    along K: a warp has 16 blocks."""
    warps = min(warps, -(-features // (16 * BLOCK)))
    warps = 1 << (warps - 1).bit_length()
    return OneRow(blocks=16 * warps, rank_width=4, rank_step=256 * warps, warps=warps)


def few_rows(rows: int, outputs: int, features: int, width: int, size: int) -> FewRows:
    """K is split where there are too few tiles to keep a card busy. A step fits a program's shared memory."""
    step = 128 if features >= 1024 and size == 2 else 64
    tiles = -(-outputs // width)
    splits = 1
    while tiles * splits < ENOUGH_PROGRAMS and features // (2 * splits) >= LEAST_SPLIT:
        splits *= 2
    span = -(-features // (splits * step)) * step
    return FewRows(
        rows=next(padded for padded in (8, 16, 32) if rows <= padded),
        width=width,
        step=step,
        splits=-(-features // span),
        span=span,
        warps=width // 16,
        stages=3,
    )
