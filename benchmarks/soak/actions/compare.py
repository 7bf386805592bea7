"""One prompt side by side: under the base, each adapter alone, and the mix."""

from __future__ import annotations

from benchmarks.soak.actions.registry import by_program
from benchmarks.soak.records import SENTENCE, WHOLE, Answer, Asked
from benchmarks.soak.visitors import Scripted, arguments


@by_program("compare", 1)
def compare(visitor: Scripted) -> None:
    """By the sum and one more method; every text of every column is an answer."""
    asked = visitor.dice.ask(visitor.home, tokens=12, method="sum")
    other = visitor.dice.random.choice([name for name in visitor.dice.world.methods if name != "sum"])
    reply = visitor.call("compare", {**arguments(asked), "methods": ["sum", other], "texts": 1})
    if reply is None:
        return
    if reply.sentence:
        visitor.recorder.answer(
            Answer(
                visitor.name, "compare", asked, "", SENTENCE, reply.at, reply.done, sentence=reply.sentence
            )
        )
        return
    for column in reply.last["columns"]:
        composition = {key: value for key, value in column["composition"].items() if value is not None}
        texts = column["texts"] or [""]
        for place, (seed, text) in enumerate(zip(reply.last["seeds"], texts, strict=False)):
            sampling = {**asked.sampling, "seed": seed}
            own = Asked(asked.base, asked.prompt, composition, sampling)
            fault = str(column["fault"] or "")
            visitor.recorder.answer(
                Answer(
                    visitor.name,
                    f"compare {column['title']} {place}",
                    own,
                    text or "",
                    SENTENCE if fault else WHOLE,
                    reply.at,
                    reply.done,
                    sentence=fault,
                )
            )
