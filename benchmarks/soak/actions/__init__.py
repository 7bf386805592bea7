"""What visitors do, a file for each kind of action: by a program, by hand in a browser, or both."""

from benchmarks.soak.actions import bases, compare, curves, dose, generate, links, own, reload, stop
from benchmarks.soak.actions.registry import BY_HAND, BY_PROGRAM

__all__ = [
    "BY_HAND",
    "BY_PROGRAM",
    "bases",
    "compare",
    "curves",
    "dose",
    "generate",
    "links",
    "own",
    "reload",
    "stop",
]
