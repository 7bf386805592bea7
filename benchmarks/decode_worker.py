"""python -m benchmarks.decode_worker CATALOG WEIGHTS: decodes once per line of its input.

A line is JSON: "tokens", how many to draw greedily, and "adapters", how many of the catalog's adapters are
loaded and at weight 1. The answer is JSON: "reading", the wall and CPU seconds of a token after the first,
and "pieces", what each token adds to the text. An engine is made and compiled when its number of adapters is
first asked for.
"""

from __future__ import annotations

import contextlib
import json
import sys
from functools import cache
from pathlib import Path

from benchmarks.fixture import add, clone_modules, warm, without_eos
from benchmarks.plan import PROMPT, prompt_of
from benchmarks.single_stream import decode
from composer.adapters.catalog import load_catalog
from composer.core.threads import run_in_short_lived_thread
from composer.engine.engine import Engine
from composer.model.loading import load_base


def main(catalog_path: str, weights: str) -> None:
    """Serve the lines of standard input until it ends."""
    catalog = load_catalog(catalog_path)
    spec = catalog.base()
    base = run_in_short_lived_thread(lambda: without_eos(load_base(spec)))

    @cache
    def engine(count: int) -> Engine:
        made = Engine(catalog, clone_modules(base), weights)
        add(made, [Path(adapter.source) for adapter in spec.adapters[:count]])
        warm(made)
        return made

    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        prompt = prompt_of(base.count_tokens, PROMPT)
        for line in sys.stdin:
            asked = json.loads(line)
            ready = run_in_short_lived_thread(lambda count=asked["adapters"]: engine(count))
            reading, steps = decode(ready, prompt, asked["tokens"])
            answer = {"reading": list(reading), "pieces": [step.piece for step in steps]}
            print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
