"""The report is made of measurements alone: figures put in, ratios, bars and words read out."""

from __future__ import annotations

import copy

import pytest

from benchmarks.report import as_markdown
from benchmarks.targets import BARS, PLAIN, judge


def taken(median: float) -> dict:
    return {"median": median, "p10": median / 2, "p90": median * 2, "cpu": median * 1.5, "count": 7}


def sections() -> dict:
    """Every bar of the CPU met but two: 8 adapters against 1, and the preview."""
    arms = {
        "ours 0": 0.030,
        "ours 1": 0.031,
        "ours 3": 0.032,
        "ours 8": 0.062,
        "ours eager 0": 0.050,
        "ours eager 3": 0.060,
        "ours float32 0": 0.040,
        "ours float32 1": 0.041,
        "ours float32 3": 0.042,
        "ours float32 8": 0.082,
        "ours int8 0": 0.014,
        "ours int8 3": 0.016,
        "peft 0": 0.060,
        "peft 1": 0.070,
        "peft 3": 0.096,
        "peft 8": 0.150,
        "peft cat 3": 0.080,
        "passes 4": 0.240,
        "wall": 0.027,
    }
    change = {"max": 0.5, "mean": 0.02, "kl": 0.001, "agree": 0.975, "positions": 80}
    fusion = {"rows 1": 0.02, "rows 3": 0.04, "fusion 2": 0.05, "peft 3": 0.1}
    fusion |= {"rows 9": 0.1, "fusion 8": 0.14, "peft 9": 0.3}
    batched = {
        "total_p10": 9,
        "total_p90": 11,
        "each": 5,
        "cpu": 0.02,
        "memory": 2e9,
        "count": 3,
        "bare": 30.0,
    }
    waits = {"default": 0.030, "unset": 0.033, "passive": 0.06, "spin 0": 0.06, "spin 20000": 0.0297}
    contention = {
        count: {arm: taken(seconds * slower) for arm, seconds in waits.items()}
        for count, slower in (("0", 1), ("1", 2), ("2", 3))
    }
    peers = {"ours same 0": 0.0100, "ours same 3": 0.0101, "ours int8 0": 0.006, "ours int8 3": 0.0061}
    peers |= {"llama.cpp F32 0": 0.0108, "llama.cpp F32 3": 0.0127, "llama.cpp Q8_0 0": 0.006}
    peers |= {"llama.cpp Q8_0 3": 0.0122}
    one = batched | {"total": 25.0, "first_p50": 0.1, "first_p95": 0.2}
    many = batched | {"bare": 240.0, "total": 225.0, "first_p50": 1.5, "first_p95": 2.5}
    return {
        "single": {
            "tokens": 48,
            "arms": {name: taken(seconds) for name, seconds in arms.items()},
            "compiled": {"0 adapters, same weights": True, "3 adapters, same weights": True},
            "wall_forms": {"576x576": "blocks"},
            "profile": {"total": 40.0, "operators": {"aten::addmm": 30.0}, "others": 2.0, "rest": 8.0},
            "int8": {"0": change},
        },
        "fusion": {
            "prompt_tokens": 32,
            "fusions": [2, 8],
            "arms": {name: taken(seconds) for name, seconds in fusion.items()},
        },
        "users": {
            "tokens": 32,
            "prompt_tokens": 32,
            "slots": 32,
            "counts": {"1": one, "32": many},
            "float32": {"1": one, "32": many},
        },
        "preview": {"prompt_tokens": 20, "p50": 0.09, "p95": 0.25, "cpu": 0.1, "count": 60},
        "page": {
            "opens": 7,
            "compiled": True,
            "open_p50": 0.9,
            "open_p95": 1.5,
            "moves": 40,
            "prompt_tokens": 20,
            "move_p50": 0.13,
            "move_p95": 0.16,
            "tokens": 56,
            "tokens_per_second": 11.0,
            "main_thread": 0.028,
            "assets": 260_000,
        },
        "start": {"adapters": 3, "first_token": taken(6.5), "memory": 9e8, "adapter_load": taken(0.05)},
        "contention": {"cores": 2, "tokens": 48, "loads": contention},
        "peers": {
            "version": "2026.10",
            "threads": 2,
            "prompt_tokens": 32,
            "tokens": 64,
            "arms": {name: taken(seconds) for name, seconds in peers.items()},
            "texts": {"F32": {"0": 64, "3": 63}},
            "busy": {"processes": 2, "tokens": 16, "arms": {"llama.cpp F32 spin 3": taken(0.1)}},
        },
        "loaded": {
            "used": 3,
            "tokens": 48,
            "compiled": {"3 loaded": True},
            "arms": {f"loaded {n}": taken(s) for n, s in ((3, 0.0200), (12, 0.0202), (60, 0.0220))},
        },
        "nf4": {
            "tokens": 48,
            "compiled": {"nf4, 3 adapters, same weights": True},
            "arms": {"full 3": taken(0.006), "nf4 3": taken(0.005), "peft 3": taken(0.2)},
        },
        "family": {
            "model_type": "gemma3_text",
            "layers": 18,
            "width": 640,
            "parameters": 2.7e8,
            "rank": 8,
            "tokens": 48,
            "compiled": {"3 adapters, same weights": False},
            "arms": {"ours 3": taken(0.02), "peft 3": taken(0.06)},
        },
    }


def results(device: str = "cpu") -> dict:
    base = {"id": "me/base", "dtype": "float32", "quantization": "none", "parameters": 1.35e8, "rank": 8}
    machine = {
        "system": "Linux x86_64",
        "cpu": "A CPU",
        "cores": 2,
        "logical_cores": 4,
        "threads": 2,
        "ram": 16e9,
        "load": 0.5,
        "gpu": None,
        "python": "3.12.1",
        "packages": {"torch": "2.13.0", "bitsandbytes": None},
    }
    command = "python -m composer bench"
    return {"device": device, "machine": machine, "command": command, "base": base, **sections()}


def gpu_results() -> dict:
    """bf16 meets every bar but that of 8 adapters against 1; nf4 has one arm; nothing of the small base."""
    seconds = {"bare": 0.0060, "ours 0": 0.0064, "ours 1": 0.0065, "ours 3": 0.0066, "ours 8": 0.0080}
    seconds |= {"peft 0": 0.02, "peft 3": 0.084, "fusion 3": 0.036, "rows 4": 0.030}
    seconds |= {"loaded 12": 0.0067, "loaded 60": 0.0069}
    figures = {name: {**taken(median), "memory": 18e9} for name, median in seconds.items()}
    batched = {"each": 100.0, "first_p50": 0.1, "first_p95": 0.4, "cpu": 0.001}
    counts = {"1": {**batched, "total": 150.0}, "32": {**batched, "total": 3000.0}}
    figures["floor"] = {"bytes": 15e9, "bandwidth": 3e12, "seconds": 0.005}
    figures["users"] = {"tokens": 60, "slots": 32, "counts": counts}
    figures["long prompts"] = {"memory": 19e9, "rows": 32, "prompt_tokens": 960, "kv_tokens": 12288}
    figures["step"] = {
        "kernels": {"gemv": {"ms": 5.0, "launches": 128.0}},
        "others": {"ms": 0.28, "launches": 64.0},
        "busy": 5.28,
        "seconds": 0.0066,
        "cpu": 0.001,
        "idle": 0.2,
        "launches": 192.0,
        "launches_a_layer": 6.0,
    }
    section = {
        "shape": {"num_hidden_layers": 32, "hidden_size": 4096},
        "rank": 16,
        "device": "cuda",
        "tokens": 96,
        "small_id": "me/base",
        "formats": {"bf16": figures, "nf4": {"ours 3": figures["ours 3"]}},
        "unfinished": ["nf4: loaded 60"],
        "failed": {"nf4: ours 8": "OutOfMemoryError"},
    }
    made = results("cuda") | {"gpu": section}
    made["machine"] = made["machine"] | {"gpu": {"name": "A GPU", "memory": 8e10, "cuda": "13.0"}}
    return made


def words(results: dict, device: str) -> dict[str, tuple[float | None, str]]:
    return {v.bar.claim: (v.measured, v.word) for v in judge(results) if v.bar.device == device}


def test_bars_are_ratios_of_what_was_measured():
    said = words({"cpu": results()}, "CPU")
    expected = {
        "ours with 3 adapters / PEFT with 3 active": (0.096 / 0.032, "yes"),
        "ours with 3 adapters, int8 / PEFT with 3 active": (0.096 / 0.016, "yes"),
        f"{PLAIN}: ours with 3 adapters / ours base": (40 / 42, "yes"),
        f"{PLAIN}: ours with 8 adapters / ours with 1": (41 / 82, "no"),
        f"{PLAIN}: ours base / bare matrix-vector products": (27 / 40, "no"),
        "KL fusion with N adapters / (N+1)-row base prefill": (1.4, "yes"),
        f"{PLAIN}: 32 users' total tokens/s / one user's": (9.0, "yes"),
        "32 users, first token p95": (2.5, "yes"),
        "slider to preview p95": (0.25, "no"),
        "page opened until usable p95": (1.5, "yes"),
        "slider to panel, in the browser p95": (0.16, "yes"),
        "main thread per written token": (0.028, "yes"),
        "start to first token, files in cache": (6.5, "yes"),
        "decoding on a quiet machine / with the best way of waiting": (0.99, "yes"),
        "decoding beside a busy process on each core / quiet": (0.33, "no"),
        "ours with 3 adapters / llama.cpp F32 with 3": (127 / 101, "no"),
        "ours base / llama.cpp F32": (1.08, "yes"),
        "ours int8 with 3 adapters / llama.cpp Q8_0 with 3": (2.0, "yes"),
        "ours int8 base / llama.cpp Q8_0": (1.0, "no"),
        "Gemma3-270m: ours with 3 / PEFT with 3 active": (3.0, "yes"),
        "nf4: ours with 3 adapters / PEFT with 3 active": (40, "yes"),
        "nf4 with 3 adapters / the full base with 3": (1.2, "yes"),
        "12 loaded and 3 in use / 3 loaded": (200 / 202, "yes"),
        "60 loaded and 3 in use / 3 loaded": (200 / 220, "no"),
    }
    assert said.keys() == expected.keys()
    for claim, (measured, word) in expected.items():
        assert said[claim] == (pytest.approx(measured), word), claim


def test_gpu_bars_are_read_from_each_format_of_the_section():
    assert set(words({"cpu": results()}, "GPU").values()) == {(None, "not yet measured")}
    assert set(words({"cuda": results("cuda")}, "GPU").values()) == {(None, "not yet measured")}
    said = words({"cuda": gpu_results()}, "GPU")
    expected = {
        "ours base / memory-bandwidth floor": (50 / 64, "yes"),
        "ours with 3 adapters / PEFT with 3 active": (84 / 6.6, "yes"),
        "ours with 3 adapters / ours base": (64 / 66, "yes"),
        "ours with 8 adapters / ours with 1": (65 / 80, "no"),
        "KL fusion of 3 / prefill of 4 rows": (1.2, "yes"),
        "32 users' total tokens/s / one user's": (20, "yes"),
        "32 users, first token p95": (0.4, "yes"),
        "12 loaded and 3 in use / 3 loaded": (66 / 67, "yes"),
        "60 loaded and 3 in use / 3 loaded": (66 / 69, "yes"),
        "most memory, 8 adapters, 32 slots, prompts of 1,000 tokens": (19, "yes"),
    }
    bf16 = {claim: found for claim, found in said.items() if claim.startswith("bf16")}
    assert bf16.keys() == {f"bf16: {claim}" for claim in expected}
    for claim, (measured, word) in expected.items():
        assert bf16[f"bf16: {claim}"] == (pytest.approx(measured), word), claim
    others = {word for claim, (_, word) in said.items() if not claim.startswith("bf16")}
    assert others == {"not yet measured"}
    assert "SmolLM2-135M, float32: ours with 3 adapters / bare products in a graph" in said
    assert {word for _, word in words({"cuda": gpu_results()}, "CPU").values()} == {"not yet measured"}


def test_the_nf4_bar_and_its_goal_read_the_same_figure():
    made = gpu_results()
    made["gpu"]["formats"]["nf4"]["bare"] = taken(0.0066)
    said = words({"cuda": made}, "GPU")
    assert said["nf4: ours with 3 adapters / bare products in a graph"] == (pytest.approx(1.0), "yes")
    assert said["nf4: the same, with a product of our own (goal)"] == (pytest.approx(1.0), "no")


@pytest.mark.parametrize(
    ("need", "measured", "word"),
    [(2.5, 2.5, "yes"), (2.5, 2.4999, "no"), (2.5, 9.0, "yes")],
)
def test_a_bar_is_met_exactly_where_it_lies(need, measured, word):
    made = results()
    made["single"]["arms"]["peft 3"] = taken(made["single"]["arms"]["ours 3"]["median"] * measured)
    verdict = judge({"cpu": made})[0]
    assert (verdict.bar.need, verdict.word) == (need, word)


def test_the_worst_fusion_counts():
    made = results()
    made["fusion"]["arms"]["fusion 2"] = taken(0.08)
    assert words({"cpu": made}, "CPU")["KL fusion with N adapters / (N+1)-row base prefill"] == (2.0, "no")


@pytest.mark.parametrize(
    "key", ["single", "fusion", "users", "preview", "page", "start", "peers", "loaded", "nf4", "family"]
)
def test_a_section_that_was_not_run_is_not_yet_measured(key):
    made = results()
    del made[key]
    missing = [v.bar.claim for v in judge({"cpu": made}) if v.bar.device == "CPU" and v.measured is None]
    assert missing and len(missing) < 10
    assert as_markdown({"cpu": made}).count("not yet measured") > 7


def test_another_dtype_than_float32_meets_no_bar_of_the_cpu():
    made = results()
    made["base"]["dtype"] = "bfloat16"
    said = words({"cpu": made}, "CPU")
    assert {claim for claim, (_, word) in said.items() if word != "not yet measured"} == {
        "Gemma3-270m: ours with 3 / PEFT with 3 active"  # whose base is another one, always in float32
    }


def test_every_bar_is_in_the_table_with_its_word():
    lines = as_markdown({"cpu": results()}).splitlines()
    rows = lines[lines.index("|---|---|---:|---:|---:|") + 1 :][: len(BARS)]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[1] for row in cells] == [bar.claim for bar in BARS]
    first, gpu = cells[0], cells[-1]
    assert first == ["CPU", "ours with 3 adapters / PEFT with 3 active", ">= 2.5x", "3.00x", "yes"]
    assert gpu[2:] == [">= 0.5x", "-", "not yet measured"]
    assert ["CPU", "slider to preview p95", "<= 0.2 s", "0.25 s", "no"] in cells


def test_tables_say_what_was_measured():
    text = as_markdown({"cpu": results()})
    assert "| ours, 3 adapters | 31.2 | 15.6 - 62.5 | 32.00 | 48.00 | 7 |" in text
    assert "| PEFT `generate()`, base | 16.7 |" in text and "| ours, base | 33.3 |" in text
    assert "| bare matrix-vector products | 37.0 |" in text
    assert "| KL fusion, 8 adapters | 140.00 | 70.00 - 280.00 | 210.00 | 7.00x |" in text
    assert "8.0 times the smallest's tokens/s. It has 9.0 times" in text
    assert "| 32 | 225.0 | 9.0 - 11.0 | 240.0 | 5.0 | 1.50 | 2.50 | 20.00 | 2.00 GB |" in text
    assert "| 90.00 | 250.00 | 100.00 | 60 |" in text
    assert "| process start to first token | 6.500 |" in text
    assert "| 0 | 0.500 | 0.0200 | 1.0e-03 | 97.5% | 80 |" in text
    assert "| `aten::addmm` | 30.000 | 75.0% |" in text
    assert "| other operators | 2.000 | 5.0% |" in text and "Python and waiting | 8.000 | 20.0% |" in text
    assert "A CPU, 2 cores (4 logical), torch threads 2, 16.00 GB RAM" in text
    assert "Python 3.12.1, torch 2.13.0." in text
    assert "## On a GPU\n\nNot yet measured.\n\n### Measured before this work" in text
    assert "| llama.cpp Q8_0, 3 adapters | 82.0 |" in text and "| llama.cpp F32, base | 92.6 |" in text
    assert (
        "| F32 | 3 | 63 of 64 |" in text and "| llama.cpp F32, 3 adapters, waiting as ours | 10.0 |" in text
    )
    assert "| 60 adapters loaded | 45.5 |" in text
    assert "| ours in nf4, 3 adapters | 200.0 |" in text
    assert "Another family: gemma3_text, 270M parameters" in text


def test_the_gpu_s_part_says_what_was_measured_and_what_was_not():
    text = as_markdown({"cuda": gpu_results()})
    assert "GPU A GPU, 80.00 GB, CUDA 13.0." in text
    assert "Llama of 32 layers, width 4096, random weights, bfloat16, on GPU; adapters of rank 16" in text
    assert "One token reads 15.00 GB of weights; at the 3000 GB/s" in text
    assert "| ours, 3 adapters | 151.5 | 75.8 - 303.0 | 6.60 | 9.90 | 7 | 18.00 GB |" in text
    assert "| ours, 12 adapters loaded, 3 in use |" in text and "| bare products in a graph |" in text
    assert "| KL fusion, 3 adapters | 36.00 | 54.00 |" in text and "| base prefill, 4 rows | 30.00 |" in text
    assert "| 32 | 3000.0 | 100.0 | 0.10 | 0.40 | 1.00 |" in text
    assert (
        "192 kernels, 6.0 a layer" in text
        and "idles 20% of it" in text
        and "| `gemv` | 5.000 | 128.0 |" in text
    )
    assert "No time was left for: nf4: loaded 60." in text
    assert "nf4: ours 8 could not be measured: OutOfMemoryError" in text


def test_what_was_measured_before_is_a_table_of_facts_with_machine_and_versions():
    text = as_markdown({})
    assert "November 2026, commit abc7f11: NVIDIA H100 80GB HBM3" in text and "torch 2.11" in text
    assert "| floor: bytes / bandwidth of a copy | 5.11 ms | 1.56 ms |" in text
    assert "| bare products in a graph | 6.13 ms | 4.48 ms |" in text
    assert "| ours, 3 adapters | 12.36 ms | 58.07 ms |" in text
    assert "| PEFT `generate()`, 3 active | 83.95 ms | 97.27 ms |" in text
    assert "| 32 users, total tokens/s | 1028 | 319 |" in text
    # These are no figures of this code: no bar is judged by them.
    assert {verdict.word for verdict in judge({})} == {"not yet measured"}


@pytest.mark.parametrize(
    ("done", "sentence"),
    [
        ((True, True), "The decoding step was compiled"),
        ((False, False), "Compiling was not available here"),
        ((True, False), "Not compiled: b."),
    ],
)
def test_whether_it_was_compiled_is_said(done, sentence):
    made = copy.deepcopy(results())
    made["single"]["compiled"] = dict(zip("ab", done, strict=True))
    assert sentence in as_markdown({"cpu": made})
