"""What the study's commands are tried on: a catalog with its base and adapters, and labelled text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.evaluation import toys
from tests.tools import tiny


def write(folder: Path, names: Sequence[str], place: str = "", tokenizer=None) -> Path:
    """adapters.yaml, its base, and data; the adapters themselves are the caller's.

    place: the folder of the adapters, ending with "/". tokenizer: the base's (None: the tiny one).
    """
    tiny.model("llama").save_pretrained(folder / "base")
    (tokenizer or tiny.tokenizer()).save_pretrained(folder / "base")
    sentiment = "      sentiment: {label: Sentiment, poles: [negative, positive]}\n"
    adapters = ", ".join(f"{name}: {{source: {place}{name}}}" for name in names)
    (folder / "adapters.yaml").write_text(
        "default: tiny\nbases:\n  tiny:\n    id: tiny/llama\n    folder: base\n    attributes:\n"
        f"{sentiment if 'negative' in names else ''}"
        f"      topic: {{label: Topic, members: [sports, world]}}\n    adapters: {{{adapters}}}\n"
    )
    toys.write(folder / "data")
    return folder
