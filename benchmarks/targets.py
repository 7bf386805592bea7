"""The bars this project set itself, judged by the measurements alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

MISSING = (KeyError, TypeError)
PLAIN = "weights read as float32"
Reader = Callable[[Mapping], float]


@dataclass(frozen=True)
class Target:
    """One claim."""

    # "CPU" or "GPU".
    device: str
    claim: str
    need: float
    unit: str
    read: Reader
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
    if cpu is not None and (cpu.get("base") or {}).get("dtype", "float32") != "float32":
        cpu = {name: cpu[name] for name in ("family",) if name in cpu}  # the bars on a CPU are for float32
    formats = ((gpu or {}).get("gpu") or {}).get("formats", {})
    return [TargetResult(bar, _read(bar, cpu if bar.device == "CPU" else formats)) for bar in BARS]


def _read(bar: Target, sections: Mapping | None) -> float | None:
    try:
        return bar.read(sections)
    except MISSING:
        return None


def speed(faster: str, slower: str, section: str = "single") -> Reader:
    """How many times the tokens a second of one arm of a CPU's section are the other's."""

    def read(sections: Mapping) -> float:
        arms = sections[section]["arms"]
        return arms[slower]["median"] / arms[faster]["median"]

    return read


def fusion_cost(sections: Mapping) -> float:
    """The worst over N of: fusion with N adapters / base prefill of N+1 rows."""
    fusion = sections["fusion"]
    arms = fusion["arms"]
    return max(arms[f"fusion {n}"]["median"] / arms[f"rows {n + 1}"]["median"] for n in fusion["fusions"])


def figure(section: str, *keys: str) -> Reader:
    """One figure of a CPU's section."""

    def read(sections: Mapping) -> float:
        found = sections[section]
        for key in keys:
            found = found[key]
        return found

    return read


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
    """32 users' tokens a second over one user's."""
    counts = sections["users"]["counts"]
    return counts["32"]["total"] / counts["1"]["total"]


def float32_throughput(sections: Mapping) -> float:
    """The same with weights that are read as float32."""
    return user_throughput({"users": {"counts": sections["users"]["float32"]}})


def on_gpu(of: str, read: Reader) -> Reader:
    """A figure of one format's steps."""
    return lambda formats: read(formats[of])


def steps(faster: str, slower: str) -> Reader:
    """How many times the speed of one step of a GPU is the other's."""
    return lambda figures: figures[slower]["median"] / figures[faster]["median"]


def floor_share(figures: Mapping) -> float:
    """Time that reading the weights takes over that of a token of ours."""
    return figures["floor"]["seconds"] / figures["ours 0"]["median"]


def _cpu(claim: str, need: float, read: Reader, unit: str = "x", most: bool = False) -> Target:
    return Target("CPU", claim, need, unit, read, most)


def _gpu(of: str, claim: str, need: float, read: Reader, unit: str = "x", most: bool = False) -> Target:
    name = {"small": "SmolLM2-135M, float32"}.get(of, of)
    return Target("GPU", f"{name}: {claim}", need, unit, on_gpu(of, read), most)


def _first_token(sections: Mapping) -> float:
    return sections["users"]["counts"]["32"]["first_p95"]


def _of_8b(of: str, over_peft: float, gigabytes: float) -> tuple[Target, ...]:
    """The bars that both formats of the 8B shape have."""
    return (
        _gpu(of, "ours with 3 adapters / PEFT with 3 active", over_peft, steps("ours 3", "peft 3")),
        _gpu(of, "ours with 3 adapters / ours base", 0.9, steps("ours 3", "ours 0")),
        _gpu(of, "ours with 8 adapters / ours with 1", 0.9, steps("ours 8", "ours 1")),
        _gpu(of, "KL fusion of 3 / prefill of 4 rows", 1.3, steps("rows 4", "fusion 3"), most=True),
        _gpu(of, "32 users' total tokens/s / one user's", 18, user_throughput),
        _gpu(of, "32 users, first token p95", 0.5, _first_token, " s", most=True),
        _gpu(of, "12 loaded and 3 in use / 3 loaded", 0.97, steps("loaded 12", "ours 3")),
        _gpu(of, "60 loaded and 3 in use / 3 loaded", 0.95, steps("loaded 60", "ours 3")),
        _gpu(
            of,
            "most memory, 8 adapters, 32 slots, prompts of 1,000 tokens",
            gigabytes,
            lambda figures: figures["long prompts"]["memory"] / 1e9,
            " GB",
            most=True,
        ),
    )


BARS = (
    _cpu("ours with 3 adapters / PEFT with 3 active", 2.5, speed("ours 3", "peft 3")),
    _cpu("ours with 3 adapters, int8 / PEFT with 3 active", 4, speed("ours int8 3", "peft 3")),
    # These were set for weights that are read as float32. Read in fewer bits the base is so much quicker that
    # what an adapter takes, which is as much as before, is a larger share.
    _cpu(f"{PLAIN}: ours with 3 adapters / ours base", 0.85, speed("ours float32 3", "ours float32 0")),
    _cpu(f"{PLAIN}: ours with 8 adapters / ours with 1", 0.8, speed("ours float32 8", "ours float32 1")),
    _cpu(f"{PLAIN}: ours base / bare matrix-vector products", 0.8, speed("ours float32 0", "wall")),
    _cpu("KL fusion with N adapters / (N+1)-row base prefill", 1.5, fusion_cost, most=True),
    _cpu(f"{PLAIN}: 32 users' total tokens/s / one user's", 8, float32_throughput),
    _cpu("32 users, first token p95", 3, _first_token, " s", most=True),
    _cpu("slider to preview p95", 0.2, figure("preview", "p95"), " s", most=True),
    _cpu("page opened until usable p95", 2, figure("page", "open_p95"), " s", most=True),
    _cpu("slider to panel, in the browser p95", 0.2, figure("page", "move_p95"), " s", most=True),
    _cpu("main thread per written token", 0.06, figure("page", "main_thread"), " s", most=True),
    _cpu(
        "start to first token, files in cache", 15, figure("start", "first_token", "median"), " s", most=True
    ),
    _cpu("decoding on a quiet machine / with the best way of waiting", 0.97, quiet_share),
    _cpu("decoding beside a busy process on each core / quiet", 0.35, busy_share),
    _cpu(
        "ours with 3 adapters / llama.cpp F32 with 3", 1.3, speed("ours same 3", "llama.cpp F32 3", "peers")
    ),
    _cpu("ours base / llama.cpp F32", 1.05, speed("ours same 0", "llama.cpp F32 0", "peers")),
    _cpu(
        "ours int8 with 3 adapters / llama.cpp Q8_0 with 3",
        1.3,
        speed("ours int8 3", "llama.cpp Q8_0 3", "peers"),
    ),
    _cpu("ours int8 base / llama.cpp Q8_0", 1.05, speed("ours int8 0", "llama.cpp Q8_0 0", "peers")),
    _cpu("Gemma3-270m: ours with 3 / PEFT with 3 active", 2.5, speed("ours 3", "peft 3", "family")),
    _cpu("nf4: ours with 3 adapters / PEFT with 3 active", 2.5, speed("nf4 3", "peft 3", "nf4")),
    _cpu("nf4 with 3 adapters / the full base with 3", 0.95, speed("nf4 3", "full 3", "nf4")),
    _cpu("12 loaded and 3 in use / 3 loaded", 0.97, speed("loaded 12", "loaded 3", "loaded")),
    _cpu("60 loaded and 3 in use / 3 loaded", 0.95, speed("loaded 60", "loaded 3", "loaded")),
    _gpu("bf16", "ours base / memory-bandwidth floor", 0.75, floor_share),
    *_of_8b("bf16", 10, 20),
    _gpu("nf4", "ours with 3 adapters / bare products in a graph", 0.75, steps("ours 3", "bare")),
    _gpu("nf4", "the same, with a product of our own (goal)", 1.2, steps("ours 3", "bare")),
    *_of_8b("nf4", 12, 8),
    _gpu("small", "ours with 3 adapters / bare products in a graph", 0.5, steps("ours 3", "bare")),
)
