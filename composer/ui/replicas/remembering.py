"""Visitors' adapters and logins, remembered outside the replica, so that the next one has them too."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict
from typing import Any, Protocol

import gradio as gr
from gradio.state_holder import SessionState, StateHolder

from composer.adapters.model_card import ModelCard
from composer.core.catalog_types import FitReport
from composer.engine.added_adapters import AddedAdapter, AddedAdapters
from composer.ui.sessions import keep_sessions
from composer.ui.visitors import Own, Visitor

log = logging.getLogger(__name__)

# Gradio's have 22 characters.
LONGEST_TOKEN = 100


class Memory(Protocol):
    """Outlives the replica. Values are plain: whoever keeps them knows no class of the project's."""

    def remember(self, key: str, value: object) -> None: ...

    def recall(self, key: str) -> Any:
        """What was remembered; None where nothing was, or where it cannot be asked for."""
        ...

    def forget(self, key: str) -> None: ...


class RememberedStates(StateHolder):
    """Gradio's states of a page's visitors. Which adapters a visitor has is remembered, and a visitor who
    comes from another replica has them from the first event on; they are loaded when they are used.

    base: the page's.
    """

    def __init__(self, blocks: gr.Blocks, memory: Memory, added: AddedAdapters, base: str):
        super().__init__()
        self.memory, self.added, self.base = memory, added, base
        self.visitor_id = next(
            key
            for key, block in blocks.blocks.items()
            if isinstance(block, gr.State) and isinstance(block.value, Visitor)
        )
        self.set_blocks(blocks)
        keep_sessions(blocks)

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = RememberedSession(self, session_id)
        return super().__getitem__(session_id)


class RememberedSession(SessionState):
    """The states of one visitor's page."""

    def __init__(self, states: RememberedStates, session_id: str):
        super().__init__(states.blocks)
        self._states, self._key = states, f"own/{states.base}/{session_id}"
        self._remembered: tuple[tuple[int, str, str | None], ...] = ()
        if known := states.memory.recall(self._key):
            log.info("a visitor comes from another replica, with %d adapters of their own", len(known))
            visitor = Visitor(tuple(Own(slot, states.added.adopt(_read(each))) for slot, each in known))
            self._remembered = _essence(visitor.own)
            super().__setitem__(states.visitor_id, visitor)

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        if isinstance(value, Visitor) and _essence(value.own) != self._remembered:
            self._remembered = _essence(value.own)
            self._states.memory.remember(self._key, [(each.slot, asdict(each.adapter)) for each in value.own])


class RememberedTokens(MutableMapping[str, str]):
    """Gradio's table of who has logged in, the same for every replica."""

    def __init__(self, memory: Memory):
        self._memory = memory
        # Those that were given out here.
        self._own: dict[str, None] = {}

    def __getitem__(self, token: str) -> str:
        name = self._memory.recall(f"login/{token}") if 0 < len(token or "") <= LONGEST_TOKEN else None
        if name is None:
            raise KeyError(token)
        return name

    def __setitem__(self, token: str, name: str) -> None:
        self._own[token] = None
        self._memory.remember(f"login/{token}", name)

    def __delitem__(self, token: str) -> None:
        self._own.pop(token, None)
        self._memory.forget(f"login/{token}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def _read(plain: dict[str, Any]) -> AddedAdapter:
    """The adapter that asdict made this of."""
    report, card = FitReport(**plain["report"]), ModelCard(**plain["card"])
    return AddedAdapter(**plain | {"report": report, "card": card})


def _essence(own: tuple[Own, ...]) -> tuple[tuple[int, str, str | None], ...]:
    return tuple((each.slot, each.adapter.source, each.adapter.revision) for each in own)
