"""benchmarks/SOAK.md: what was demanded, what was found, and on which machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from benchmarks.soak.check import Checked
from benchmarks.soak.faults import NAMES
from benchmarks.soak.figures import UNNOTICED, by_minute, fairness, memory, waits
from benchmarks.soak.plan import SoakPlan, World
from benchmarks.soak.run import Soaked
from composer.core.document import Block, Heading, Paragraph, markdown, table
from composer.core.machine import machine_line

MOST_GROWTH = 0.05
# Findings of a kind that are listed.
LISTED = 20


def as_markdown(made: Soaked, found: Checked, world: World, plan: SoakPlan, command: str) -> str:
    """The whole report."""
    return markdown(
        [*_head(made, found, world, plan, command), *_demands(made, found, plan), *_rest(made, found)]
    )


def passed(made: Soaked, found: Checked) -> bool:
    """Whether nothing was wrong that does not depend on how busy the machine is."""
    return not (found.wrong or made.crashes or made.not_freed)


def _head(made: Soaked, found: Checked, world: World, plan: SoakPlan, command: str) -> Iterator[Block]:
    yield Heading("The soak", 1)
    yield Paragraph(
        f"{plan.visitors} programs and {plan.browsers} browsers for {made.seconds / 60:.1f} minutes, "
        f"{plan.warm_up / 60:.1f} of them to warm up, with a fault every {plan.fault_every:.0f} seconds, on "
        f"{' and '.join(world.bases)}. Afterwards every answer was compared with its solo run: a fresh "
        "engine, one text at a time, the same seed. Made by "
        f"`{command}` on {machine_line()}."
    )
    yield Paragraph(
        "The machine also ran the programs, the browsers and the Hub's stand-in; waits include their share."
    )


def _demands(made: Soaked, found: Checked, plan: SoakPlan) -> Iterator[Block]:
    answers = made.recorder.answers
    leaks = [each for each in found.wrong if each.leak]
    waited, fair, grown = waits(answers), fairness(answers), memory(made.memory, plan.warm_up)
    rows = [
        ("wrong answers", "0", str(len(found.wrong)), _met(not found.wrong)),
        ("crashes", "0", str(len(made.crashes)), _met(not made.crashes)),
        (
            "visitors with another's text, weights or adapters",
            "0",
            str(len(leaks)),
            _met(not leaks),
        ),
        (
            "memory after the warm-up",
            f"within {MOST_GROWTH:.0%}",
            "-" if grown is None else f"{grown.growth:+.1%}",
            "-" if grown is None else _met(grown.growth <= MOST_GROWTH),
        ),
        ("not freed after the last has left", "0", str(len(made.not_freed)), _met(not made.not_freed)),
        (
            "of those of one second, who waits more than twice the mean",
            "0",
            f"{fair.unfair} of {fair.groups} groups",
            _met(fair.unfair == 0),
        ),
        ("first words, p95", "reported", "-" if waited is None else f"{waited.p95:.2f} s", "-"),
        ("seconds to end after SIGTERM", "10", f"{made.ending:.1f}", _met(made.ending <= 10)),
    ]
    yield table(("what", "demanded", "found", "met"), rows, words=2)
    yield Paragraph(
        f"Compared: {found.answers.total()} answers ({_counted(found.answers)}) and {found.sweeps} sweeps, "
        f"{found.tokens:,} tokens. In {found.ties} of them the rounding of float32 in another batch decided "
        "a draw between two tokens; each is the same up to there, and from that token on again what it is "
        "alone."
    )
    if waited is not None:
        yield Paragraph(
            f"First words of {waited.count} texts: half within {waited.p50:.2f} s, 95 of 100 within "
            f"{waited.p95:.2f} s, the longest {waited.longest:.2f} s. Fairness is of texts that need no "
            f"other work before their first word, and of waits above {UNNOTICED} s; the worst of the "
            f"{fair.groups} groups waited {fair.worst:.1f} times the mean."
        )
    if grown is not None:
        yield Paragraph(
            f"The server's memory: {grown.warm / 1e6:.0f} MB in the minute after the warm-up, "
            f"{grown.end / 1e6:.0f} MB in the last one, at most {grown.most / 1e6:.0f} MB. By minute: "
            f"{', '.join(f'{size / 1e6:.0f}' for size in by_minute(made.memory))}."
        )


def _rest(made: Soaked, found: Checked) -> Iterator[Block]:
    yield Heading("What visitors did")
    done = sorted(made.recorder.actions.items())
    yield table(("action", "times"), [(name, str(count)) for name, count in done])
    yield Heading("Faults")
    injected = Counter(name for _, name in made.injected)
    rows = [(name, str(injected[name]), str(made.fired.get(name, "-"))) for name in NAMES]
    yield table(("fault", "injected", "struck"), rows)
    yield Paragraph(
        "Browsers that went, reloaded pages and cut streams are among the actions. A fault inside the server "
        "is armed and strikes at its next occasion; one of the Hub lasts for three seconds."
    )
    yield Heading("What visitors read instead of a text")
    read = Counter[str]()
    for sentence, count in found.sentences.items():
        read[sentence.strip()[:160]] += count
    yield table(("sentence", "times"), [(each, str(count)) for each, count in read.most_common(LISTED)])
    for title, lines in (
        ("Wrong", [f"{each.visitor}, {each.action}: {each.what}" for each in found.wrong]),
        ("Crashes", made.crashes),
        ("Not freed", made.not_freed),
    ):
        if lines:
            yield Heading(title)
            yield from (Paragraph(f"- {line}") for line in lines[:LISTED])


def _met(good: bool) -> str:
    return "yes" if good else "no"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
