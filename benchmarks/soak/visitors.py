"""A scripted visitor: does one thing after another until the time is over, and records what comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Event
from typing import Any

import numpy as np

from benchmarks.soak.plan import Dice, SoakPlan, World
from benchmarks.soak.program import Hung, Program, Reply
from benchmarks.soak.records import LEFT, SENTENCE, STOPPED, WHOLE, Answer, Asked, Recorder


def arguments(asked: Asked) -> dict[str, Any]:
    """What an endpoint takes for a text."""
    return {"prompt": asked.prompt, **asked.composition, **asked.sampling}


class Scripted:
    """A visitor that is a program."""

    def __init__(
        self, name: str, address: str, world: World, plan: SoakPlan, recorder: Recorder, over: Event
    ):
        self.name, self.address, self.recorder = name, address, recorder
        self.dice, self.home = Dice(world, plan, name), world.bases[0]
        self._over, self._programs = over, dict[str, Program]()

    def over(self) -> bool:
        """Whether it is time to leave."""
        return self._over.is_set()

    def program(self, base: str) -> Program:
        """The session with a base's page."""
        if base not in self._programs:
            path = "" if base == self.home else f"/base/{base}"
            self._programs[base] = Program(self.address, path)
        return self._programs[base]

    def reload(self) -> None:
        """Leave, to come back as somebody new with the next call."""
        for each in self._programs.values():
            each.leave()
        self._programs.clear()

    def call(self, name: str, given: Mapping[str, Any]) -> Reply | None:
        """An endpoint's answer; None, and a report, where it hangs or fails without a sentence."""
        return self._guarded(name, lambda: self.program(self.home).call(name, given))

    def generate(
        self,
        action: str,
        asked: Asked,
        until: Callable[[Mapping[str, Any]], bool] | None = None,
        leave_after: int = 0,
    ) -> None:
        """Have a text written and record it. until: stop there. leave_after: cut the line after so many
        updates."""

        def work() -> Reply:
            program = self.program(asked.base)
            if leave_after:
                return program.leave_amid("generate", arguments(asked), leave_after)
            return program.call("generate", arguments(asked), until)

        reply = self._guarded(action, work)
        if reply is None:
            return
        if reply.sentence:
            ended = SENTENCE
        elif reply.stopped:
            ended = LEFT if leave_after else STOPPED
        else:
            ended = WHOLE
        told = reply.last
        self.recorder.answer(
            Answer(
                self.name,
                action,
                asked,
                told.get("text", ""),
                ended,
                reply.at,
                reply.done,
                reply.first,
                reply.sentence,
                tuple(told["tokens"]) if "tokens" in told else None,
                tuple(told["adapters"]) if "adapters" in told else None,
                np.array(told["contribution"], np.float32) if "contribution" in told else None,
            )
        )

    def _guarded(self, action: str, work: Callable[[], Reply]) -> Reply | None:
        try:
            return work()
        except Hung as fault:
            self.recorder.report(self.name, action, str(fault))
        except Exception as fault:  # whatever a visitor's program meets is a finding, not the soak's end
            self.recorder.report(self.name, action, f"{type(fault).__name__}: {fault}"[:300])
        self.reload()
        return None


def think(visitor_over: Event, dice: Dice) -> None:
    """Look at the text for a while."""
    visitor_over.wait(dice.random.uniform(0, dice.plan.thinking))
