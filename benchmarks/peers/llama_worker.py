"""python -m benchmarks.peers.llama_worker MODEL THREADS ADAPTER...: llama.cpp, decoding once a line.

A line is JSON: "ids", the prompt's tokens, "tokens", how many to draw greedily, and "adapters", how many of
the ADAPTER files add at weight 1. The answer is JSON: "reading", the wall and CPU seconds of a token after
the first, "drawn", how many tokens, and "text", what they spell. Imports nothing but llama.cpp's binding: no
other library's threads run here.
"""

from __future__ import annotations

import json
import sys
import time

import xllamacpp


def main(model: str, threads: int, adapters: list[str]) -> None:
    """Serve the lines of standard input until it ends."""
    server = xllamacpp.Server(_settings(model, threads, adapters))
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_decode(server, asked, len(adapters))), flush=True)


def _settings(model: str, threads: int, adapters: list[str]) -> xllamacpp.CommonParams:
    made = xllamacpp.CommonParams()
    made.model.path = model
    made.n_ctx = 512
    made.n_parallel = 1
    made.cpuparams.n_threads = made.cpuparams_batch.n_threads = threads
    made.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in adapters]
    made.verbosity = -1
    return made


def _decode(server: xllamacpp.Server, asked: dict, adapters: int) -> dict:
    """The clocks are read at the first token and at the last, as they are for ours."""
    moments: list[tuple[float, float]] = []
    chunks: list[dict] = []

    def hear(chunk: dict) -> None:
        moments.append((time.perf_counter(), time.process_time()))
        chunks.append(chunk)

    server.handle_completions(
        {
            "prompt": asked["ids"],
            "n_predict": asked["tokens"],
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
            "stream": True,
            "lora": [{"id": i, "scale": float(i < asked["adapters"])} for i in range(adapters)],
        },
        hear,
    )
    (wall, cpu), (last_wall, last_cpu) = moments[0], moments[-1]
    drawn = chunks[-1]["usage"]["completion_tokens"]
    gaps = drawn - 1
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    return {"reading": [(last_wall - wall) / gaps, (last_cpu - cpu) / gaps], "drawn": drawn, "text": text}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
