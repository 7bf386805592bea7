"""The report's words: names of arms, and figures with their units."""

from __future__ import annotations

from collections.abc import Mapping

DEVICES = {"cpu": "CPU", "cuda": "GPU"}
NOT_YET = "not yet measured"

ARMS = {
    "ours": "ours, {} adapters",
    "ours eager": "ours, {} adapters, not compiled",
    "ours float32": "ours, {} adapters, weights read as float32",
    "ours int8": "ours, {} adapters, int8 weights",
    "peft": "PEFT `generate()`, {} active",
    "peft cat": "PEFT, {} merged by `cat`",
    "passes": "{} separate passes a token (base and each adapter alone)",
    "wall": "bare matrix-vector products",
}
PEER_ARMS = {
    "ours same": "ours, {} adapters",
    "ours float32": "ours, {} adapters, weights read as float32",
    "ours int8": "ours, {} adapters, int8 weights",
    "llama.cpp F32": "llama.cpp F32, {} adapters",
    "llama.cpp Q8_0": "llama.cpp Q8_0, {} adapters",
    "llama.cpp F32 spin": "llama.cpp F32, {} adapters, waiting as ours",
    "llama.cpp Q8_0 spin": "llama.cpp Q8_0, {} adapters, waiting as ours",
}
LOADED_ARMS = {"loaded": "{} adapters loaded"}
NF4_ARMS = {
    "full": "ours in full, {} adapters",
    "nf4": "ours in nf4, {} adapters",
    "peft": "PEFT `generate()` in nf4, {} active",
}
GPU_ARMS = {
    "bare": "bare products in a graph",
    "ours": "ours, {} adapters",
    "loaded": "ours, {} adapters loaded, 3 in use",
    "peft": "PEFT `generate()`, {} active",
    "fusion": "KL fusion, {} adapters",
    "rows": "base prefill, {} rows",
}
FUSION_ARMS = {
    "rows": "base prefill, {} rows",
    "fusion": "KL fusion, {} adapters",
    "peft": "{} separate PEFT passes",
}


RATES = ("arm", "tokens/s", "p10 - p90", "wall ms/token", "CPU ms/token", "runs")


def named(names: Mapping[str, str], arm: str) -> str:
    """ "ours 3" -> "ours, 3 adapters"."""
    stem, _, number = arm.rpartition(" ")
    name = names[stem or number].format(number)  # "wall" is an arm without a number
    if number == "1":
        name = name.replace("adapters", "adapter").replace("rows", "row")
    for zero, base in (("0 adapters", "base"), ("0 active", "base")):
        name = name.replace(f", {zero}", f", {base}") if number == "0" else name
    return name


def compiled(compiled: Mapping[str, bool]) -> str:
    """Which engines' steps were compiled, as a sentence."""
    if all(compiled.values()):
        return "The decoding step was compiled, but for the arms that say otherwise."
    if not any(compiled.values()):
        return "Compiling was not available here: no arm is compiled."
    return f"Not compiled: {', '.join(name for name, done in compiled.items() if not done)}."


def seconds(name: str, taken: Mapping) -> list[str]:
    """A row: median, spread, CPU seconds and how many."""
    spread = f"{taken['p10']:.3f} - {taken['p90']:.3f}"
    return [name, f"{taken['median']:.3f}", spread, f"{taken['cpu']:.3f}", str(taken["count"])]


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def rates(arms: Mapping[str, Mapping], names: Mapping[str, str]) -> list[list[str]]:
    """A row for each arm: tokens a second with their spread, wall and CPU milliseconds of a token, runs."""
    return [
        [
            named(names, arm),
            f"{1 / taken['median']:.1f}",
            f"{1 / taken['p90']:.1f} - {1 / taken['p10']:.1f}",
            ms(taken["median"]),
            ms(taken["cpu"]),
            str(taken["count"]),
        ]
        for arm, taken in arms.items()
    ]
