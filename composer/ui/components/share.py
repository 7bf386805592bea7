"""The card that opens under the header: a link, the recipe as YAML, and back from it."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from composer.ui.components import template

# Ranks of an exported adapter; 0: as they come.
RANKS = (("exact", 0), ("cut to rank 8", 8), ("cut to rank 16", 16), ("cut to rank 32", 32))


@dataclass(frozen=True)
class ShareCard:
    """Everything of the card that events connect."""

    open: gr.Button
    group: gr.Column
    link: gr.HTML
    recipe: gr.Textbox
    load: gr.Button
    upload: gr.UploadButton
    rank: gr.Dropdown
    export: gr.Button
    download: gr.Button
    files: gr.File
    message: gr.Markdown
    close: gr.Button


def build() -> ShareCard:
    """Lays the button and the card out in the current Blocks context. Connects no events."""
    opened = gr.Button("Share", size="sm", elem_id="share-open")
    with gr.Column(visible=False, elem_id="share") as group:
        link = template.component("share", {"link": ""}, "share-link")
        recipe = gr.Textbox(
            label="Recipe: keep it, run it with composer generate --recipe FILE, or paste one and load it",
            lines=8,
            max_lines=14,
            max_length=100_000,
            buttons=["copy"],
            elem_id="share-recipe",
        )
        with gr.Row():
            load = gr.Button("Load the recipe above", size="sm", elem_id="share-load")
            upload = gr.UploadButton(
                "Load a file", file_types=[".yaml", ".yml"], size="sm", elem_id="share-upload"
            )
            close = gr.Button("Close", size="sm", elem_id="share-close")
        with gr.Row(elem_id="share-files", equal_height=True):
            download = gr.Button("Download this text and its figures", size="sm", elem_id="share-download")
            export = gr.Button("Export the mix as a PEFT adapter", size="sm", elem_id="share-export")
            rank = gr.Dropdown(
                list(RANKS), value=0, label="Ranks", show_label=False, elem_id="share-rank", min_width=130
            )
        files = gr.File(
            label="Files", file_count="multiple", visible=False, interactive=False, elem_id="share-out"
        )
        message = gr.Markdown("", elem_id="share-message")
    made = (rank, export, download, files)
    return ShareCard(opened, group, link, recipe, load, upload, *made, message, close)
