"""From what arrives over the wire to the engine's values. Nothing that a browser sent is trusted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from composer.adapters.files import local_folder
from composer.adapters.hub import valid_repo_id
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message
from composer.methods import METHODS
from composer.ui.settings import Settings


@dataclass(frozen=True)
class Request:
    """One generation, checked."""

    prompt: str
    composition: Composition
    sampling: Sampling
    # Tokens of the continuation that are there already.
    written: tuple[int, ...] = ()


def check_prompt(prompt: object, limit: int) -> str:
    """The prompt as text. Raises ComposerError if it is not text, empty, longer than `limit` or broken."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ComposerError("The prompt is empty; write the beginning of a text for the model to continue.")
    if len(prompt) > limit:
        raise ComposerError(f"The prompt has {len(prompt)} characters; shorten it to {limit}.")
    try:
        prompt.encode()  # JSON carries lone surrogates in, but no answer that quotes them gets out
    except UnicodeEncodeError:
        raise ComposerError("The prompt has broken characters; type it again as plain text.") from None
    return prompt


def check_method(method: object) -> str:
    """A method's name. Raises ComposerError for one that does not exist."""
    if not isinstance(method, str) or method not in METHODS:
        raise ComposerError(unknown_name_message("method", method, METHODS))
    return method


def make_request(
    prompt: object,
    weights: Mapping[str, float],
    method: object,
    bands: Sequence[float],
    parameters: Mapping[str, object],
    sampling: Mapping[str, object],
    settings: Settings,
    curves: object = MappingProxyType({}),
    schedule: object = MappingProxyType({}),
) -> Request:
    """Check everything at once. Raises ComposerError with one sentence about the first fault.

    parameters: strength and the fields that methods read. sampling: fields of Sampling but time_limit, which
    the server sets.
    """
    text = check_prompt(prompt, settings.max_prompt_chars)
    composition = Composition(
        weights=weights,
        method=check_method(method),
        bands=tuple(bands),
        curves=curves,
        schedule=schedule,
        **parameters,
    )
    chosen = Sampling(**sampling, time_limit=settings.time_limit)
    if chosen.max_new_tokens > settings.max_new_tokens:
        raise ComposerError(f"max_new_tokens can be at most {settings.max_new_tokens} here.")
    return Request(text, composition, chosen)


def check_source(source: object, folders: bool) -> str:
    """A repo id, or a folder where that is allowed. Raises ComposerError otherwise."""
    text = source.strip() if isinstance(source, str) else ""
    if valid_repo_id(text) and not os.path.exists(text):
        return text
    if folders and isinstance(source, str) and local_folder(source):
        return str(local_folder(source))
    kinds = "a Hub repo id such as owner/name" + (" or an existing folder" if folders else "")
    raise ComposerError(f"Give {kinds}.")
