"""How files come from the Hub: into which cache, and who is told how far they are."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from tqdm import tqdm

# Is told the bytes that are there and the bytes in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Fetch:
    """How to download.

    cache: a folder of its own, where what the Hub's cache lacks is put; None: the Hub's cache.
    """

    cache: Path | None = None
    progress: Progress | None = None

    @property
    def progress_bar(self) -> type[tqdm] | None:
        """What huggingface_hub draws while it downloads; None: its own."""
        if self.progress is None:
            return None
        progress: Progress = self.progress

        class Told(tqdm):
            """Draws nothing and tells `progress`."""

            def __init__(self, *given: Any, **named: Any):
                super().__init__(*given, **{**named, "file": io.StringIO(), "disable": False})

            def update(self, n: float | None = 1) -> bool | None:
                drawn = super().update(n)
                progress(int(self.n), int(self.total or 0))
                return drawn

        return Told


def list_files(repo: str, revision: str | None) -> set[str]:
    """The names of the repo's files. Raises the Hub's refusal without retrying.

    The client's downloads retry a refused or stalled request for minutes, and resolving a branch has no time
    limit. One plain request first reports every lasting fault at once.
    """
    info = HfApi().model_info(repo, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    return {sibling.rfilename for sibling in info.siblings or ()}
