"""How much is right: one adapter's weight is swept."""

from __future__ import annotations

from benchmarks.soak.actions.registry import by_program
from benchmarks.soak.records import Sweep
from benchmarks.soak.visitors import Scripted, arguments


@by_program("dose", 1)
def dose(visitor: Scripted) -> None:
    """Three weights, one text at each, of which the page tells perplexity and repetition."""
    asked = visitor.dice.ask(visitor.home, tokens=12, method="sum")
    name = next(iter(asked.composition["weights"]))
    span = {name: (0.0, 1.5, 3)}
    given = {**arguments(asked), "sweep": {name: [0, 1.5, 3]}}
    reply = visitor.call("dose", given)
    if reply is None:
        return
    faults = reply.last.get("faults") or []
    rows = () if reply.sentence else tuple(reply.last["rows"])
    said = reply.sentence or " ".join(faults)
    visitor.recorder.sweep(Sweep(visitor.name, asked, span, rows, reply.at, reply.done, said))
