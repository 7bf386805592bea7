"""The project's names are the field's. Former names of its own must not come back."""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Names that stood for something which the field has a word for. Words that are ordinary English, Python's or
# another library's (call, close, draw, join, sign) are not listed.
FORMER = frozenset(
    """
    free_name Trace Factors Site Entry Shelf Stock _Place Lease Full ROOM STEP _given Cast makes Through
    at_once Gating Probe Run check_places Ticket Waiting _hand_out _give_up _shaped_anew Voices Voice
    Mixer Pass Drawn Seat regate REACH Packed Under Table Stretch Around attend widen narrow turns
    normed plus noted Meter Ear Window Product Joint Int8 Apart spelled_out Route Routing WarmUp
    Question Prompted needs against_opposites LOUDEST usual Part Halves elected _crowding Heard Outputs
    BandsOut NOBODY as_added _speaking Order Stand Work Unit Made Home lacks UNIONS RIVALS Line Measured
    Clash Follow Signed consult carry_out _knock Author hire Labelled openers rewritten sure Crowd
    Forked bursts News Making Slot spares rack remark Verdict endless twin dials dial_updates
    """.split()  # noqa: SIM905 -- a list of 100 strings would fill the screen
)
SENTENCES = (
    "The house is full",
    "places are taken",
    "take the room",
    "Nobody waits for",
    "keys nobody reads",
    "Who spoke where",
    "Strength of everything",
    "Most new tokens",
    "More dials",
    "Read anew",
)
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("composer", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)
)


def names_in(source: str) -> set[str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


@pytest.mark.parametrize("path", ["app.py", *SOURCES])
def test_no_former_name_is_used(path):
    assert names_in((ROOT / path).read_text("utf-8")) & FORMER == set()


@pytest.mark.parametrize("path", ["README.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))])
def test_no_former_message_is_documented(path):
    text = (ROOT / "docs" / path if path != "README.md" else ROOT / path).read_text("utf-8")
    assert [sentence for sentence in SENTENCES if sentence in text] == []


@pytest.mark.parametrize("path", [each for each in SOURCES if each.startswith("composer/")])
def test_no_former_message_is_shown(path):
    text = (ROOT / path).read_text("utf-8")
    assert [sentence for sentence in SENTENCES if sentence in text] == []


def test_a_former_name_is_found():
    assert names_in("from composer import Stock\nstock = 'Shelf'") & FORMER == {"Stock"}
