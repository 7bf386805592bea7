"""The command line as a shell starts it, with streams redirected or closed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def shell(line: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a line of shell in which the first `composer` is the command."""
    python = f"'{sys.executable}' -m composer"
    env = {**os.environ, **environment}
    return subprocess.run(
        line.replace("composer", python, 1), shell=True, cwd=ROOT, env=env, capture_output=True, text=True
    )
