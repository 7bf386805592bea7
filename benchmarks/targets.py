"""The bars this project set itself, judged by the measurements alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

MISSING = (KeyError, TypeError)


@dataclass(frozen=True)
class Target:
    """One claim."""

    # "CPU" or "GPU".
    device: str
    claim: str
    need: float
    unit: str
    read: Callable[[Mapping], float]
    # True where the figure may be `need` at most, else at least.
    most: bool = False


@dataclass(frozen=True)
class TargetResult:
    """A target and what was measured for it."""

    bar: Target
    # None when the run did not measure it.
    measured: float | None

    @property
    def word(self) -> str:
        if self.measured is None:
            return "not yet measured"
        met = self.measured <= self.bar.need if self.bar.most else self.measured >= self.bar.need
        return "yes" if met else "no"


def judge(results: Mapping[str, Mapping]) -> list[TargetResult]:
    """results: "cpu" and "cuda" -> what a run on that device measured; either may be absent."""
    cpu, gpu = results.get("cpu"), results.get("cuda")
    if cpu is not None and (cpu.get("base") or {}).get("dtype") != "float32":
        cpu = None  # the bars on a CPU are for float32
    eight = ((gpu or {}).get("gpu") or {}).get("dtypes", {}).get("bf16")
    return [TargetResult(bar, _read(bar, cpu if bar.device == "CPU" else eight)) for bar in BARS]


def _read(bar: Target, sections: Mapping | None) -> float | None:
    try:
        return bar.read(sections)
    except MISSING:
        return None


def speed(faster: str, slower: str) -> Callable[[Mapping], float]:
    """How many times the tokens a second of one arm are the other's."""

    def read(sections: Mapping) -> float:
        arms = sections["single"]["arms"]
        return arms[slower]["median"] / arms[faster]["median"]

    return read


def fusion_cost(sections: Mapping) -> float:
    """The worst over N of: fusion with N adapters / base prefill of N+1 rows."""
    fusion = sections["fusion"]
    arms = fusion["arms"]
    return max(arms[f"fusion {n}"]["median"] / arms[f"rows {n + 1}"]["median"] for n in fusion["fusions"])


def floor_share(sections: Mapping) -> float:
    return sections["floor"]["seconds"] / sections["single"]["arms"]["ours 0"]["median"]


def quiet_share(sections: Mapping) -> float:
    """Speed of the default on a quiet machine over that of the best way of waiting."""
    arms = sections["contention"]["loads"]["0"]
    return min(arm["median"] for arm in arms.values()) / arms["default"]["median"]


def busy_share(sections: Mapping) -> float:
    """Speed of the default beside a busy process on each core over the best way's on a quiet machine."""
    contention = sections["contention"]
    best = min(arm["median"] for arm in contention["loads"]["0"].values())
    return best / contention["loads"][str(contention["cores"])]["default"]["median"]


def user_throughput(sections: Mapping) -> float:
    counts = sections["users"]["counts"]
    return counts["32"]["total"] / counts["1"]["total"]


def _both(claim: str, need: tuple[float, float], unit: str, read, most: bool = False) -> list[Target]:
    return [Target("CPU", claim, need[0], unit, read, most), Target("GPU", claim, need[1], unit, read, most)]


BARS = (
    *_both("ours with 3 adapters / PEFT with 3 active", (2.5, 3), "x", speed("ours 3", "peft 3")),
    Target(
        "CPU",
        "ours with 3 adapters, int8 / PEFT with 3 active",
        4,
        "x",
        speed("ours int8 3", "peft 3"),
    ),
    *_both("ours with 3 adapters / ours base", (0.85, 0.9), "x", speed("ours 3", "ours 0")),
    *_both("ours with 8 adapters / ours with 1", (0.8, 0.8), "x", speed("ours 8", "ours 1")),
    Target("CPU", "ours base / bare matrix-vector products", 0.8, "x", speed("ours 0", "wall")),
    Target("GPU", "ours base / memory-bandwidth floor (bf16, 8B shape)", 0.7, "x", floor_share),
    *_both("KL fusion with N adapters / (N+1)-row base prefill", (1.5, 1.5), "x", fusion_cost, most=True),
    *_both("32 users' total tokens/s / one user's", (8, 15), "x", user_throughput),
    *_both(
        "32 users, first token p95",
        (3, 1),
        " s",
        lambda sections: sections["users"]["counts"]["32"]["first_p95"],
        most=True,
    ),
    Target("CPU", "slider to preview p95", 0.2, " s", lambda sections: sections["preview"]["p95"], most=True),
    Target(
        "CPU",
        "page opened until usable p95",
        2,
        " s",
        lambda sections: sections["page"]["open_p95"],
        most=True,
    ),
    Target(
        "CPU",
        "slider to panel, in the browser p95",
        0.2,
        " s",
        lambda sections: sections["page"]["move_p95"],
        most=True,
    ),
    Target(
        "CPU",
        "main thread per written token",
        0.06,
        " s",
        lambda sections: sections["page"]["main_thread"],
        most=True,
    ),
    Target(
        "CPU",
        "start to first token, files in cache",
        15,
        " s",
        lambda sections: sections["start"]["first_token"]["median"],
        most=True,
    ),
    Target("CPU", "decoding on a quiet machine / with the best way of waiting", 0.97, "x", quiet_share),
    Target("CPU", "decoding beside a busy process on each core / quiet", 0.35, "x", busy_share),
)
