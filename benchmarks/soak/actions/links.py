"""Links that carry a mix: what comes out is what went in, and writes the same text."""

from __future__ import annotations

import base64
import json

from benchmarks.soak.actions.registry import by_hand, by_program
from benchmarks.soak.browser import Hands
from benchmarks.soak.visitors import Scripted, arguments


@by_program("share link", 1)
def link(visitor: Scripted) -> None:
    """The recipe of a mix, whose link has the same prompt, weights and seed."""
    asked = visitor.dice.ask(visitor.home)
    reply = visitor.call("recipe", arguments(asked))
    if reply is None or reply.sentence:
        return
    encoded = reply.last["link"].partition("=")[2]
    recipe = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    given = (recipe["prompt"], recipe["composition"]["weights"], recipe["sampling"]["seed"])
    wanted = (asked.prompt, asked.composition["weights"], asked.sampling["seed"])
    if given != wanted:
        visitor.recorder.report(visitor.name, "share link", "the link has another prompt, weights or seed")
    visitor.generate("share link", asked)


@by_hand("share link", 1)
def link_by_hand(hands: Hands) -> None:
    """The link is opened in another window, which writes the text."""
    asked = hands.fill_in()
    hands.open_link()
    hands.generate("share link", asked)
