"""How the page looks: a gradio theme object with the system's fonts, and the style sheet."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from composer.core.assets import ASSETS
from composer.ui.components.weight_sliders import WeightSlider

SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "monospace")


def make_theme() -> gr.themes.Base:
    """Calm greys and one accent; adapters bring the colours. Plain font names: nothing is fetched."""
    return gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        spacing_size="sm",
        text_size="md",
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="#0f1218",
        background_fill_primary_dark="#171b23",
        background_fill_secondary_dark="#12161d",
        block_background_fill_dark="#171b23",
        block_border_color_dark="#272d38",
        border_color_primary_dark="#272d38",
        input_background_fill_dark="#10141b",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_weight="600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
    )


def make_css(slots: Sequence[WeightSlider]) -> str:
    """The style sheet with each slot's colours (#rrggbb by construction) and the place of its 0."""
    sheets = [path.read_text(encoding="utf-8") for path in sorted((ASSETS / "ui").glob("*.css"))]
    for slot in slots:
        span = slot.slider.maximum - slot.slider.minimum
        zero = 100 * min(max(-slot.slider.minimum / span, 0.0), 1.0)
        sheets.append(
            f"#{slot.key} {{ --left: {slot.colors[0]}; --right: {slot.colors[-1]}; --zero: {zero:.2f}%; }}"
        )
    return "\n".join(sheets)


def page_script() -> str:
    """What the page runs once in the browser: Ctrl+Enter presses Generate."""
    return (ASSETS / "ui" / "keys.js").read_text(encoding="utf-8")
