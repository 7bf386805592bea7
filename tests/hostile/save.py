"""Finds cases to replay: for each reader some inputs of every outcome. `python -m tests.hostile.save SEED`

Adds to cases.json what has an outcome that no saved case has. A case that was mended is added by hand, or by
the seed that found it.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import tempfile
from pathlib import Path

from tests.hostile.mutations import Mutator
from tests.hostile.readers import READERS, outcome

CASES = Path(__file__).parent / "cases.json"
TRIED, LARGEST = 300, 3000
# Of a reader's outcome, of a reader at least however alike they are, and at most.
EACH, LEAST, MOST = 1, 12, 26


def template(sentence: str) -> str:
    """A sentence without what is quoted in it."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*\d\S*", "_", sentence)[:60]


def main(seed: int) -> None:
    cases = json.loads(CASES.read_text("utf-8")) if CASES.is_file() else []
    counts: dict[tuple[str, str], int] = {}
    for case in cases:
        key = case["reader"], case["outcome"]
        counts[key] = counts.get(key, 0) + 1
    with tempfile.TemporaryDirectory() as folder:
        for kind in READERS:
            mutator = Mutator(seed)
            for _ in range(TRIED):
                data = mutator.bytes_for(kind)
                if len(data) > LARGEST:
                    continue
                said = outcome(kind, data, Path(folder))
                key = kind, template(said)
                own = sum(count for (reader, _), count in counts.items() if reader == kind)
                if own >= MOST or (own >= LEAST and counts.get(key, 0) >= EACH):
                    continue
                counts[key] = counts.get(key, 0) + 1
                name = f"{kind} {own + 1}"
                text = base64.b64encode(data).decode()
                cases.append(
                    {"name": name, "reader": kind, "ok": said == "ok", "outcome": key[1], "bytes": text}
                )
    CASES.write_text(json.dumps(cases, indent=0) + "\n", "utf-8")
    print(len(cases))


if __name__ == "__main__":
    main(int(sys.argv[1]))
