"""What a run's folder of checkpoints was made with: another run's must not go on from them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from composer.core.errors import ComposerError, sanitize

FILE = "run.json"


@dataclass(frozen=True)
class RunFolder:
    """work/<name>. `plan`: everything that decides what comes out, as JSON's own values."""

    path: Path
    plan: Mapping[str, object]

    def claim(self, adapter: Path, force: bool) -> dict | None:
        """Make the folder this run's. Returns the results of the same run if it has ended, else None.

        adapter: where the weights are to lie. force: whether another run's checkpoints and adapter may go.
        Raises ComposerError if there are any and they may not.
        """
        there = self._read()
        plan = there.get("plan") if isinstance(there.get("plan"), dict) else None
        same = plan == self.plan
        if same and not force:
            results = there.get("results")
            return results if isinstance(results, dict) and adapter.is_file() else None
        made = [*self.path.glob("checkpoint-*")]
        if made and not force:
            raise ComposerError(
                f"{sanitize(self.path, 200)} has a run that began with {self._difference(plan)}: give the "
                "same again to go on with it, or another name, or --force to start anew."
            )
        if not force and adapter.is_file():
            raise ComposerError(
                f"{sanitize(adapter.parent, 200)} has an adapter already, which is not of this run: give "
                "another name, or --force to replace it."
            )
        for folder in made:
            shutil.rmtree(folder)
        self._write(None)
        return None

    def finish(self, results: Mapping[str, object]) -> None:
        """Note that the run has ended, with what it measured."""
        self._write(results)

    def _difference(self, plan: Mapping[str, object] | None) -> str:
        if plan is None:
            return "something else"
        keys = [key for key in self.plan if plan.get(key) != self.plan[key]]
        return "other " + ", ".join(key.replace("_", " ") for key in keys)

    def _read(self) -> dict:
        try:
            document = json.loads((self.path / FILE).read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            document = None
        return document if isinstance(document, dict) else {"plan": {}}

    def _write(self, results: Mapping[str, object] | None) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        fresh = self.path / f"{FILE}.new"
        fresh.write_text(json.dumps({"plan": self.plan, "results": results}, indent=1), "utf-8")
        os.replace(fresh, self.path / FILE)
