"""One decoded token, kernel by kernel: the device's time, the launches a layer, and how long it idles."""

from __future__ import annotations

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.plan import greedy
from benchmarks.single_stream import decode
from benchmarks.timing import now
from composer.core.composition import Composition
from composer.engine.engine import Engine

TOKENS = 17
SHOWN = 15
NAME_LENGTH = 70


def step_table(engine: Engine, prompt: str) -> dict:
    """Per decoded token with every loaded adapter in use: milliseconds and launches of each kernel.

    busy: milliseconds that kernels run. seconds: of a token without the profiler, which `idle` is the share
    of in which no kernel runs. launches_a_layer: kernels of a token by the base's layers. On a CPU operators
    stand for kernels.
    """
    device = engine.base.device
    weights = dict.fromkeys(engine.names, 1.0)
    reading, _ = decode(engine, prompt, TOKENS, weights)
    steps = engine.generate(prompt, Composition(weights=weights), greedy(TOKENS))
    next(steps)
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as taken:
        for _ in steps:
            pass
        now(device)
    wanted = DeviceType.CUDA if cuda else DeviceType.CPU
    count = TOKENS - 1
    kernels: dict[str, list[float]] = {}
    for event in taken.key_averages():
        if event.device_type != wanted:
            continue
        spent = (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e3 / count
        row = kernels.setdefault(event.key[:NAME_LENGTH], [0.0, 0.0])
        row[0] += spent
        row[1] += event.count / count
    costly = sorted(kernels, key=lambda name: -kernels[name][0])
    shown = {name: {"ms": kernels[name][0], "launches": kernels[name][1]} for name in costly[:SHOWN]}
    busy = sum(spent for spent, _ in kernels.values())
    launches = sum(times for _, times in kernels.values())
    return {
        "kernels": shown,
        "others": {
            "ms": sum(kernels[name][0] for name in costly[SHOWN:]),
            "launches": sum(kernels[name][1] for name in costly[SHOWN:]),
        },
        "busy": busy,
        "seconds": reading.seconds,
        "cpu": reading.cpu,
        "idle": max(0.0, 1 - busy / 1e3 / reading.seconds),
        "launches": launches,
        "launches_a_layer": launches / engine.model.layers,
    }
