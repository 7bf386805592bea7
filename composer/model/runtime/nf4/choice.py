"""Which of several ways to compute a product is the fastest on the card at hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch

log = logging.getLogger(__name__)

# A product and z = x A^T.
Pair = tuple[torch.Tensor, torch.Tensor]
Candidate = Callable[[], Pair]
# Seconds that a call takes.
Clock = Callable[[Candidate], float]

# One choice is made for all numbers of rows up to each of these.
BUCKETS = (1, 4, 8, 16, 32)


def bucket(rows: int) -> int:
    """The least of BUCKETS that is no less than `rows`."""
    return next(size for size in BUCKETS if rows <= size)


def choose(
    what: str, reference: tuple[str, Candidate], candidates: Mapping[str, Candidate], clock: Clock
) -> str:
    """The name of the fastest candidate that gives what the reference gives, or the reference's own.

    A candidate that raises, or whose result differs by more than rounding, is left out and logged. what: the
    product, for the log. clock: see composer.model.runtime.nf4.timing. The reference is used where it cannot
    be timed.
    """
    name, run = reference
    expected, seconds, faults = run(), {}, []
    for candidate, compute in candidates.items():
        try:
            if fault := difference(compute(), expected):
                raise ArithmeticError(fault)
            seconds[candidate] = clock(compute)
        except Exception as fault:  # of a compiler, a driver or the memory: the reference still works
            faults.append(f"{candidate} ({type(fault).__name__}: {_last_line(fault)})")
    if faults:
        log.warning("4-bit product %s without %s", what, "; ".join(faults))
    if not seconds:
        return name
    try:
        seconds[name] = clock(run)
    except Exception as fault:
        log.warning("4-bit product %s: %s cannot be timed: %r", what, name, fault)
        return name
    fastest = min(seconds, key=seconds.__getitem__)
    times = ", ".join(f"{each} {1e6 * took:.1f} us" for each, took in sorted(seconds.items()))
    log.info("4-bit product %s: %s (%s)", what, fastest, times)
    return fastest


def _last_line(fault: Exception) -> str:
    """What a compiler's message of many lines ends with."""
    return (str(fault).strip().splitlines() or [""])[-1][:200]


def difference(got: Pair, expected: Pair) -> str:
    """How two results differ by more than the rounding of their type; empty where they do not."""
    for what, one, other in zip(("product", "z"), got, expected, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            return f"{what} is {one.dtype} {tuple(one.shape)}, not {other.dtype} {tuple(other.shape)}"
        if not other.numel():
            continue
        # Sums of thousands of float32 differ by more than an epsilon of float32.
        unit = max(torch.finfo(other.dtype).eps, 1e-5)
        one, other = one.float(), other.float()
        off = one - other
        # Of all numbers, and of each row alone, so that one row's fault does not hide among many.
        whole, rows = (off.norm() / other.norm()).item(), (off.norm(dim=1) / other.norm(dim=1)).amax().item()
        worst = (off.abs().amax() / other.abs().amax()).item()
        if not (whole <= unit and rows <= 2 * unit and worst <= 2 * unit):
            return f"{what} is off by {whole:.1e} in all, {rows:.1e} in a row, {worst:.1e} at one place"
    return ""
