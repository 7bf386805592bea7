"""From what arrives over the wire to the engine's values. Nothing that a browser sent is trusted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from composer.adapters.files import local_folder
from composer.adapters.hub import parse_address, valid_repo_id
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message
from composer.methods import METHODS
from composer.ui.runners.budgets import Usage
from composer.ui.settings import Settings
from composer.ui.visitors import Own, Visitor

LONGEST_SOURCE = 300


@dataclass(frozen=True)
class Request:
    """One generation, checked."""

    prompt: str
    composition: Composition
    sampling: Sampling
    # Tokens of the continuation that are there already.
    written: tuple[int, ...] = ()
    # The adapters in use that the visitor brought.
    added: tuple[Own, ...] = ()
    # What the visitor has used, which this text is added to.
    usage: Usage = field(default_factory=Usage, compare=False)


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
    visitor: Visitor | None = None,
) -> Request:
    """Check everything at once. Raises ComposerError with one sentence about the first fault.

    parameters: strength and the fields that methods read. sampling: fields of Sampling but time_limit, which
    the server sets.
    """
    text = check_prompt(prompt, settings.max_prompt_chars)
    own = () if visitor is None else visitor.using([name for name, weight in weights.items() if weight])
    # The visitor's adapters that stand at 0 take no part, and need not be loaded.
    idle = set() if visitor is None else {each.name for each in visitor.own} - {each.name for each in own}
    composition = Composition(
        weights=_without(weights, idle),
        method=check_method(method),
        bands=tuple(bands),
        curves=_without(curves, idle),
        schedule=_without(schedule, idle),
        **parameters,
    )
    chosen = Sampling(**sampling, time_limit=settings.time_limit)
    if chosen.max_new_tokens > settings.max_new_tokens:
        raise ComposerError(f"max_new_tokens can be at most {settings.max_new_tokens} here.")
    return Request(text, composition, chosen, added=own, usage=visitor.usage if visitor else Usage())


def _without(values: object, names: Collection[str]) -> object:
    """A mapping without these keys; anything else as it is, for Composition to refuse."""
    if not isinstance(values, Mapping):
        return values
    return {name: value for name, value in values.items() if name not in names}


def read_source(source: object, folders: bool) -> tuple[str, str | None] | None:
    """A repo id and its revision, or a folder where that is allowed; None for any other text.

    A repository may be given as its id, with @ and a revision, or as its address in a browser.
    """
    if not isinstance(source, str) or len(source) > LONGEST_SOURCE:
        return None
    text = source.strip()
    if folders and (folder := local_folder(source)):
        return str(folder), None
    repo, _, revision = text.partition("@")
    found = parse_address(text) or (repo, revision or None)
    # A folder that is called like a repository would be read in its place.
    return found if valid_repo_id(found[0]) and local_folder(found[0]) is None else None


def check_source(source: object, folders: bool) -> tuple[str, str | None]:
    """As `read_source`. Raises ComposerError for any other text."""
    found = read_source(source, folders)
    if found is None:
        kinds = "a Hub repo id such as owner/name" + (" or an existing folder" if folders else "")
        raise ComposerError(f"Give {kinds}.")
    return found
