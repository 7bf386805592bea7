"""The tab that teaches: six lessons on the real controls, and what happens, how to read it, the formulas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gradio as gr

from composer.methods import METHODS
from composer.ui.components import template

FOLLOWS = "@follows"
WORDS = r"""
### What happens when you press Generate

A language model is a stack of layers; the **base** stays as it is. Each **adapter** is a small file that
adds a correction to the outputs inside every layer, learned from one kind of text: happy reviews, sports
news... Because these corrections are *added*, several can act at once, each turned up or down by its slider,
and nothing has to be trained again:

$$y = W_0 x + \sum_i g_{l,i}\, s_i B_i A_i x$$

$g_{l,i}$ is the **gate**: how much of adapter $i$ is added in layer $l$. Sliders, strength, layer bands and
most methods do nothing but choose gates. Some go about it differently: methods on *weights* make one new
adapter of those you pull, *Calibrated* ones change the adapters a little first, *Arrow* shares them out anew
for every word, and those on *logits* run every adapter alone and add up what each changes in the scores of
the next word. With every slider at 0 the base writes alone, bit for bit.

### How to read the pictures

- **Contribution map** (while the text grows): column = token, row = layer, colour = adapter, brightness =
  size of what the adapter added, relative to the base's own output there:
  $\sqrt{\sum_{sites} |y_i|^2} / \sqrt{\sum_{sites} |W_0 x|^2}$. It says who was loud, not who was right.
- **Words** are tinted by the same numbers, averaged over layers.
- **Fusion weights** compare, at each layer, the model's guess for the next word without an adapter ($p$) and
  with adapter $i$ alone ($q_i$): $\alpha_i = KL(p\|q_i) / \sum_j KL(p\|q_j)$. Hatched layers are undecided:
  no adapter moved them, all get the same share. An adapter with a larger norm moves the guess further,
  whatever the prompt says. @follows
- **Contribution by layer** is the map's average over the text, with numbers one can hover and zoom.

### Things to try

- Pull one slider to the far end and watch the text break: adapters have a sweet spot, mostly near 1.
- Turn up a mood and a topic: the mood drowns the topic a little, and with the topic at 1.25 it is back.
- Keep the seed and change one slider by a little: where does the text part ways?
- Set the early layers to 0, then the late ones: which of them carry the topic, which the mood?
- Turn up two adapters, compare *Sum of outputs* with *KL fusion*: whom does the prompt prefer?

### Methods
"""


@dataclass(frozen=True)
class LearnTab:
    """Everything of the tab that events connect."""

    cards: gr.HTML


def build(lessons: Mapping[str, object], follows: str, standings: str) -> LearnTab:
    """Lay the tab out inside the current Blocks context. Connects no events.

    lessons: the value of the list of lessons. follows, standings: what the study found of the fusion weights
    and of the methods, or nothing.
    """
    cards = template.component("lessons", lessons, "lessons")
    words = WORDS.replace(FOLLOWS, follows)
    methods = "\n".join(f"- **{each.label}.** {each.help} *{each.source}.*" for each in METHODS.values())
    gr.Markdown(
        f"{words}{methods}\n\n{standings}",
        latex_delimiters=[
            {"left": "$$", "right": "$$", "display": True},
            {"left": "$", "right": "$", "display": False},
        ],
        elem_id="guide",
    )
    return LearnTab(cards)
