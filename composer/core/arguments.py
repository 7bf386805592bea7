"""How every door reads its options: what is wrong with them is one line, and exit code 2."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn, TextIO

USAGE = 2


class Parser(argparse.ArgumentParser):
    """argparse with faults in one line, and a help that does not hide that it could not be written."""

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split())
        self.exit(USAGE, f"{self.prog}: {line} (see {self.prog} --help)\n")

    def print_help(self, file: TextIO | None = None) -> None:  # type: ignore[override]
        # argparse's own ignores that nothing could be written.
        (file or sys.stdout).write(self.format_help())
