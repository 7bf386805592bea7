"""The panel of next words: what the base and the mix would write now, before anything is generated."""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

from composer.analysis.next_token import NextTokens
from composer.ui.components import template

BASE_COLOR = "#8d887c"
# Fewer nats are no push.
LEAST = 0.005
EMPTY = "Move a slider: the likeliest next words show here before anything is generated."


def component(value: dict[str, object]) -> gr.HTML:
    """The panel. value: as `message` or `view` makes it."""
    return template.component("next-words", value, "next")


def message(sentence: str) -> dict[str, object]:
    """The panel with a sentence in place of words."""
    return {"title": "Next word", "words": [], "message": sentence}


def waiting(sentence: str) -> dict[str, object]:
    """The panel with a sentence under the words that it has."""
    return message(sentence) | {"keep": True}


def view(
    found: NextTokens,
    legend: Mapping[str, Mapping[str, str]],
    weights: Mapping[str, float],
    written: bool = False,
) -> dict[str, object]:
    """The panel's value. legend: adapter name -> label and color. weights: those of the sliders. written:
    whether a part of the text stands between the prompt and these words.

    A word has the color of the adapter in use that pushes it most. An opposite that a method subtracts is
    named with its push and gives no color, since no slider of it was moved.
    """
    moved = f"The mix moves this choice by {found.kl:.2f} nats (KL)."
    return {
        "title": "Next word" if written else "Next word after the prompt",
        "message": moved if found.adapters else "No adapter takes part: this is the base.",
        "words": [_word(found, place, legend, weights) for place in range(len(found.tokens))],
    }


def _word(
    found: NextTokens,
    place: int,
    legend: Mapping[str, Mapping[str, str]],
    weights: Mapping[str, float],
) -> dict[str, object]:
    pushes = [
        {**_of(legend, name), "nats": round(float(value), 2)}
        for name, value in zip(found.adapters, found.push[:, place], strict=True)
    ]
    in_use = [push for push, name in zip(pushes, found.adapters, strict=True) if weights.get(name)]
    strongest = max(in_use, key=lambda push: abs(push["nats"]), default=None)
    return {
        "text": shown_piece(found.pieces[place]),
        "base": round(float(found.base[place]), 5),
        "composed": round(float(found.composed[place]), 5),
        "color": strongest["color"] if strongest and abs(strongest["nats"]) >= LEAST else BASE_COLOR,
        "pushes": pushes,
    }


def _of(legend: Mapping[str, Mapping[str, str]], name: str) -> dict[str, str]:
    found = legend.get(name, {"label": name, "color": BASE_COLOR})
    return {"label": found["label"], "color": found["color"]}


def shown_piece(piece: str) -> str:
    """A token that a reader can see: control tokens and blanks get a sign."""
    text = piece.strip()
    if text and text.isprintable():
        return text
    return {"\n": "line break", "\n\n": "blank line", "": "end of text"}.get(piece, "blank")
