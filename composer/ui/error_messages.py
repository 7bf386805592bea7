"""Turns a fault into one sentence for a visitor or a calling program. The log has the rest."""

from __future__ import annotations

import logging

import gradio as gr

from composer.core.errors import ComposerError
from composer.core.fault_messages import sentence

log = logging.getLogger(__name__)


def error_message(fault: Exception) -> str:
    """The sentence for an error. An unforeseen one is logged, and only its type is shown."""
    if isinstance(fault, gr.Error):
        return fault.message
    if not isinstance(fault, ComposerError):
        log.error("an event failed", exc_info=fault)
        return f"The server could not do that. {sentence(fault, 'Try again; its log has the details.')}"
    return sentence(fault, "")
