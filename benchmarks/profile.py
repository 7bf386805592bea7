"""Where a token's time goes: the operators of our decoding, the costliest first."""

from __future__ import annotations

from torch.profiler import ProfilerActivity, profile

from benchmarks.plan import greedy
from benchmarks.timing import now
from composer.core.composition import Composition
from composer.engine.engine import Engine

SHOWN = 12


def operators(engine: Engine, prompt: str, tokens: int) -> dict:
    """Milliseconds per decoded token of each operator itself, all adapters at weight 1, prefill left out.

    others: all the operators that are not listed. rest: what no operator accounts for: Python between them,
    and waiting. The profiler slows all of it down, so only the shares count. On a GPU the operators' time is
    the device's.
    """
    device = engine.base.device
    cuda = device.type == "cuda"
    steps = engine.generate(prompt, Composition(weights=dict.fromkeys(engine.names, 1.0)), greedy(tokens))
    next(steps)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as taken:
        began = now(device)
        for _ in steps:
            pass
        ended = now(device)
    spent = {
        event.key[:60]: (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e3
        for event in taken.key_averages()
    }
    count = tokens - 1
    total = (ended.wall - began.wall) * 1e3 / count
    costly = sorted(spent, key=spent.__getitem__, reverse=True)[:SHOWN]
    shown = {name: spent[name] / count for name in costly}
    counted = sum(spent.values()) / count
    return {
        "total": total,
        "operators": shown,
        "others": counted - sum(shown.values()),
        "rest": max(0.0, total - counted),
    }
