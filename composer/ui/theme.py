"""How the page looks: a gradio theme object, our two fonts and the style sheet."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import gradio as gr

from composer.core.assets import ASSETS
from composer.core.catalog_types import Example
from composer.ui.components.weight_sliders import WeightSlider

FOLDER = ASSETS / "ui"
SANS = ("Inter", "ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "monospace")
# Family, file, weights. Both are under the SIL Open Font License; their texts lie beside them.
FONTS = (
    ("Inter", "inter-latin-wght-normal.woff2", "100 900"),
    ("Source Serif 4", "source-serif-4-latin-wght-normal.woff2", "200 900"),
)
SCRIPTS = ("keys.js", "mix.js", "opening.js")


def make_theme() -> gr.themes.Base:
    """Warm paper, one accent for what can be pressed; adapters bring the other colours."""
    return gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="stone",
        radius_size="lg",
        spacing_size="sm",
        text_size="md",
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="#f7f6f2",
        body_background_fill_dark="#151618",
        body_text_color="#1d1c1a",
        body_text_color_dark="#eceae4",
        body_text_color_subdued="#5c5952",
        body_text_color_subdued_dark="#a9a69d",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#1e2023",
        background_fill_secondary="#f7f6f2",
        background_fill_secondary_dark="#191b1e",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1e2023",
        block_border_color="#e2dfd6",
        block_border_color_dark="#33363b",
        border_color_primary="#e2dfd6",
        border_color_primary_dark="#33363b",
        input_background_fill="#fbfaf7",
        input_background_fill_dark="#191b1e",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="#5c5952",
        block_label_text_color_dark="#a9a69d",
        block_title_text_weight="600",
        block_title_text_color="#5c5952",
        block_title_text_color_dark="#a9a69d",
        color_accent="#2b3a8c",
        color_accent_soft="#eceefa",
        color_accent_soft_dark="#2a2f45",
        button_primary_background_fill="#2b3a8c",
        button_primary_background_fill_hover="#1f2c72",
        button_primary_background_fill_dark="#9fb0ff",
        button_primary_background_fill_hover_dark="#b9c5ff",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#101324",
        button_secondary_background_fill="#fbfaf7",
        button_secondary_background_fill_hover="#f1efe8",
        button_secondary_background_fill_dark="#191b1e",
        button_secondary_background_fill_hover_dark="#26292e",
        button_secondary_border_color="#e2dfd6",
        button_secondary_border_color_dark="#33363b",
        button_secondary_text_color="#1d1c1a",
        button_secondary_text_color_dark="#eceae4",
    )


def make_css(slots: Sequence[WeightSlider], examples: Sequence[Example] = ()) -> str:
    """The style sheet, with each slot's colours (#rrggbb by construction), the place of its 0, and the dots
    on the presets' cards."""
    sheets = [_font_face(*font) for font in FONTS]
    sheets += [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.css"))]
    for slot in slots:
        span = slot.slider.maximum - slot.slider.minimum
        zero = 100 * min(max(-slot.slider.minimum / span, 0.0), 1.0)
        sheets.append(
            f"#{slot.key} {{ --left: {slot.colors[0]}; --right: {slot.colors[-1]}; --zero: {zero:.2f}%; }}"
        )
        left, right = (_twin(color) for color in (slot.colors[0], slot.colors[-1]))
        sheets.append(f".dark #{slot.key} {{ --left: {left}; --right: {right}; }}")
    return "\n".join([*sheets, *_example_dots(slots, examples)])


def _twin(color: str) -> str:
    """An adapter's lighter twin for the dark, as node.js has it."""
    return f"color-mix(in srgb, {color} 68%, white)"


def _example_dots(slots: Sequence[WeightSlider], examples: Sequence[Example]) -> list[str]:
    """A style rule per card: a dot for each adapter in its colour, a ring for a negative weight."""
    shades = {slot.adapters[0]: slot.colors[0] for slot in slots if len(slot.adapters) == 1}
    rules = []
    for place, example in enumerate(examples):
        spots = [
            f"radial-gradient(circle at {6 + 11 * k}px 50%, {_spot(shades[name], weight)})"
            for k, (name, weight) in enumerate(example.weights.items())
        ]
        width = 11 * len(spots) + 1
        rules.append(
            f".example-{place}::before {{ content: ''; flex: none; width: {width}px; height: 12px; "
            f"background: {', '.join(spots)}; }}"
        )
    return rules


def _spot(color: str, weight: float) -> str:
    if weight < 0:
        return f"transparent 2.5px, {color} 3px, {color} 4.5px, transparent 5px"
    return f"{color} 4.5px, transparent 5px"


def _font_face(family: str, file: str, weights: str) -> str:
    """Inside the style sheet, so that no request leaves for it and no path is shown."""
    data = base64.b64encode((FOLDER / "fonts" / file).read_bytes()).decode("ascii")
    return (
        f'@font-face {{ font-family: "{family}"; font-weight: {weights}; font-display: swap; '
        f'src: url("data:font/woff2;base64,{data}") format("woff2"); }}'
    )


def page_script() -> str:
    """What the page runs once in the browser: its keys, folding unused sliders, waiting for a link."""
    parts = [(FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return "() => {\n" + "\n".join(f"({part.strip().rstrip(';')})();" for part in parts) + "\n}"
