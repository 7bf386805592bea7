"""python -m benchmarks.contention_worker CATALOG: decodes once per line of its input.

A line holds how many tokens; the answer is [seconds, CPU seconds] per token as JSON. An empty line is
answered when the decoding step is compiled.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from benchmarks.fixture import add, warm, without_eos
from benchmarks.plan import prompt_of
from benchmarks.single_stream import ours
from composer.adapters.catalog import load_catalog
from composer.core.threads import run_in_short_lived_thread
from composer.engine.engine import Engine
from composer.model.loading import load_base


def main(catalog: str) -> None:
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        engine = run_in_short_lived_thread(lambda: _engine(catalog))
        prompt = prompt_of(engine.base.count_tokens, 32)
        for line in sys.stdin:
            reading = ours(engine, prompt, int(line))() if line.strip() else (0.0, 0.0)
            print(json.dumps(list(reading)), file=out, flush=True)


def _engine(path: str) -> Engine:
    """The default base of a catalog with its adapters, compiled."""
    catalog = load_catalog(path)
    spec = catalog.base()
    engine = Engine(catalog, without_eos(load_base(spec)))
    add(engine, [Path(adapter.source) for adapter in spec.adapters])
    warm(engine)
    return engine


if __name__ == "__main__":
    main(sys.argv[1])
