"""Components of our own: a gr.HTML from a template and scripts in assets/ui."""

from __future__ import annotations

import gradio as gr

from composer.core.assets import ASSETS

FOLDER = ASSETS / "ui"


def component(
    stem: str, value: object, elem_id: str, scripts: tuple[str, ...] = (), **props: object
) -> gr.HTML:
    """The component of assets/ui/{stem}.html, run by {stem}.js after node.js and the other `scripts`.

    props: what the scripts read beside the value.
    """
    names = ("node.js", *scripts, f"{stem}.js")
    return gr.HTML(
        value=value,
        html_template=(FOLDER / f"{stem}.html").read_text(encoding="utf-8"),
        js_on_load="\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names),
        elem_id=elem_id,
        apply_default_css=False,
        **props,
    )
