"""Clocks: wall and CPU time side by side, arms taking turns, medians with their spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch


class Moment(NamedTuple):
    """wall: seconds of the wall clock. cpu: seconds that all threads of this process have computed."""

    wall: float
    cpu: float


class Measurement(NamedTuple):
    """Seconds for one unit of work (a token, a prefill, a call), by the wall and by the CPU's clock."""

    seconds: float
    cpu: float


Arm = Callable[[], Measurement]


def now(device: torch.device | None = None) -> Moment:
    """The clocks, once the device has done all it was told to; None: what is timed is on the CPU already."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return Moment(time.perf_counter(), time.process_time())


def between(began: Moment, ended: Moment, units: int = 1) -> Measurement:
    return Measurement((ended.wall - began.wall) / units, (ended.cpu - began.cpu) / units)


def timed(work: Callable[[], object], device: torch.device, units: int = 1) -> Measurement:
    """Do `work` once; the reading is for one of the `units` that it holds."""
    began = now(device)
    work()
    return between(began, now(device), units)


def interleave(arms: Mapping[str, Arm], rounds: int) -> dict[str, dict]:
    """Every arm once untimed, then `rounds` turns of each; arm -> summary.

    Arms take turns, and another one begins each round, so that a change of the machine's mood meets all.
    """
    names = list(arms)
    for name in names:
        arms[name]()
    readings: dict[str, list[Measurement]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            readings[name].append(arms[name]())
    return {name: summary(taken) for name, taken in readings.items()}


def summary(readings: Sequence[Measurement]) -> dict:
    """Median, 10th and 90th percentile of the wall seconds, median of the CPU seconds, and how many."""
    seconds = [reading.seconds for reading in readings]
    cpu = [reading.cpu for reading in readings]
    return {
        "median": quantile(seconds, 0.5),
        "p10": quantile(seconds, 0.1),
        "p90": quantile(seconds, 0.9),
        "cpu": quantile(cpu, 0.5),
        "count": len(readings),
    }


def quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(np.asarray(values, dtype=np.float64), share))
