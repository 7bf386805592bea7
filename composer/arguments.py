"""How every door reads its options: what is wrong with them is one line, and exit code 2."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn, TextIO

USAGE = 2


class Parser(argparse.ArgumentParser):
    """argparse with faults in one line, whole option names, and a help that tells of a full disk."""

    def __init__(self, **options):
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split())
        self.exit(USAGE, f"{self.prog}: {line} (see {self.prog} --help)\n")

    def print_help(self, file: TextIO | None = None) -> None:
        # argparse's own ignores that nothing could be written.
        (file or sys.stdout).write(self.format_help())
