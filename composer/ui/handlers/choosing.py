"""Choosing a base in the header's menu, or by a link, and what comes along to its page."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

import gradio as gr

from composer.adapters.recipe import Recipe, Source
from composer.core.catalog_types import BaseSpec
from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.ui.bases.menu import BaseMenu
from composer.ui.context import PageContext
from composer.ui.handlers.generating import CHEAP
from composer.ui.sharing import CARRIED, PARAMETER, decode, encode
from composer.ui.tabs.compose import Controls

# In the address of a page that is to choose a base.
BASE = "base"


class Choosing:
    """The handlers of the menu: the ways to the page of a base, which the browser has loaded by /bases."""

    def __init__(self, context: PageContext, menu: BaseMenu, controls: Controls):
        self._context, self._menu, self._controls = context, menu, controls

    def connect(self, blocks: gr.Blocks, header: gr.HTML, chosen: gr.State) -> None:
        """header: the component with the menu. chosen: the name of the tab that is shown."""
        header.select(self.carried, [chosen, *self._controls.inputs], header, **CHEAP)
        blocks.load(self.arrived, None, header, **CHEAP)

    def carried(self, event: gr.EventData, tab: str, *values) -> dict[str, object]:
        """The way to another base's page, with the prompt and what of the mix there is on that base too.

        Without either where they are no request, such as an empty prompt. `turn` comes back as it was sent.
        """
        asked = event._data or {}
        name, turn = asked.get("name"), asked.get("turn")
        spec = self._menu.catalog.bases.get(name) if isinstance(name, str) else None
        if spec is None:
            raise gr.Error("There is no such base; reload the page.")
        way = self._menu.path(spec.name)
        try:
            request = self._context.request(self._controls.read(values))
            composition = restricted(request.composition, spec)
            recipe = Recipe(Source(spec.id), request.prompt, composition, request.sampling, tab=tab)
            query = urlencode({PARAMETER: encode(recipe), CARRIED: 1})
        except ComposerError:
            query = ""
        return {"name": spec.name, "way": f"{way}?{query}" if query else way, "turn": turn}

    def arrived(self, request: gr.Request) -> dict[str, object]:
        """Where the address asks for another base, by its name or by a recipe's: the base to load."""
        named = request.query_params.get(BASE)
        if named is not None:
            return {"asked": named}
        spec = asked_by(request.query_params.get(PARAMETER), self._menu)
        return gr.skip() if spec is None else {"asked": spec.name}


def asked_by(parameter: str | None, menu: BaseMenu) -> BaseSpec | None:
    """The other base of the catalog that a link's recipe is for; None where it is for the page's own."""
    try:
        spec = menu.of_id(decode(parameter).base.id)
    except ComposerError:
        return None
    return None if spec is None or spec.name == menu.here else spec


def restricted(composition: Composition, spec: BaseSpec) -> Composition:
    """The composition without the adapters that a base has not."""
    kept = {
        field: {name: each for name, each in getattr(composition, field).items() if name in spec.names}
        for field in ("weights", "curves", "schedule")
    }
    return replace(composition, **kept)
