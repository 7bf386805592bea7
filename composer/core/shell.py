"""The process's edges: options of the command line, and standard streams that are closed, full or narrow."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
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


def open_closed() -> bool:
    """Give standard streams that were closed (`>&-`) to the null device; returns whether stdout was open.

    Else the next file that is opened takes the free number, and whatever a library prints lands in it.
    """
    was_open = sys.stdout is not None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 -- open as long as the process
    return was_open


def show_anything(stream: TextIO) -> None:
    """Have the stream write "?" for a character that its encoding lacks, where it would raise."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")


def tell(line: str) -> None:
    """One line on stderr, if anybody can be told at all."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def flush(stream: TextIO) -> OSError | ValueError | None:
    """Write out what the stream holds, or give it up; returns why it could not be written."""
    try:
        stream.flush()
    except (OSError, ValueError) as fault:
        give_up(stream)
        return fault
    return None


def give_up(stream: TextIO) -> None:
    """Send the rest of what the stream holds nowhere: Python would fail on it once more when it ends."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
