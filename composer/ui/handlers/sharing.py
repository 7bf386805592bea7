"""Share: a link and a file of what the controls say, and back from either."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import gradio as gr

from composer.adapters.recipe import LONGEST_YAML, Recipe, parse_recipe, recipe_yaml
from composer.core.errors import ComposerError
from composer.engine.recipes import adapter_source, check_recipe, recipe_of
from composer.ui.bases.menu import BaseMenu
from composer.ui.bases.offers import label_of
from composer.ui.components import next_words
from composer.ui.components.share import ShareCard
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.handlers.choosing import BASE, asked_by
from composer.ui.handlers.generating import CHEAP, empty_view, status_update
from composer.ui.handlers.mixing import Mixing
from composer.ui.sharing import CARRIED, PARAMETER, decode, encode
from composer.ui.tabs.compose import ComposeTab, Controls
from composer.ui.validation import check_method
from composer.ui.visitors import Visitor

RESTORED = "Everything stands as in the link. Press Generate."
BROUGHT = "Your prompt came along, and the weights of adapters that this base has too. Press Generate."
# Those that a link can open.
TABS = ("compose", "compare", "conflict", "dose")
LOADED = "The recipe is loaded."
# Ends what opening.js began.
OPENED = """() => { document.querySelector("#tabs").inert = false; }"""


class Sharing:
    """The handlers of the share card and of a link that was opened. menu: None where there is one base."""

    def __init__(self, context: PageContext, mixing: Mixing, menu: BaseMenu | None = None):
        self._context, self._mixing, self._menu = context, mixing, menu

    def connect(
        self,
        returned: gr.events.Dependency,
        tabs: gr.Tabs,
        chosen: gr.State,
        compose: ComposeTab,
        card: ShareCard,
    ) -> None:
        """returned: the event after which a visitor has their adapters, which a link may name. chosen: the
        name of the tab that is shown."""
        self._nothing = [gr.skip()] * len(compose.restored)
        make = partial(self.make, compose.controls)
        card.open.click(
            make,
            [chosen, *compose.controls.inputs],
            [card.group, card.link, card.recipe, card.message],
            **CHEAP,
        )
        card.close.click(lambda: gr.update(visible=False), None, card.group, **CHEAP)
        back, visitor = [tabs, compose.live, card.message, *compose.restored], compose.controls.visitor
        card.load.click(self.load, [visitor, card.recipe], back, **CHEAP)
        card.upload.upload(self.upload, [visitor, card.upload], [card.recipe, *back], **CHEAP)
        shown = [tabs, compose.live, compose.next_words, *compose.restored]
        opened = returned.then(self.opened, visitor, shown, **CHEAP)
        opened.then(None, None, None, js=OPENED, **CHEAP)

    def make(self, controls: Controls, tab: str, *values) -> tuple:
        """The card with the link and the YAML of what the controls say."""
        try:
            request = self._context.request(controls.read(values))
            engine = self._context.runner.engine
            sources = self._context.runner.sources(request)
            recipe = recipe_of(engine, request.prompt, request.composition, request.sampling, tab, sources)
            link = f"?{PARAMETER}={encode(recipe)}"
            return gr.update(visible=True), {"link": link}, recipe_yaml(recipe), ""
        except Exception as fault:
            return gr.update(visible=True), {"link": ""}, gr.skip(), error_message(fault)

    def load(self, visitor: Visitor, text: str) -> list:
        """The controls as a pasted recipe has them.

        Returns the tab, the live view, a message and the controls.
        """
        try:
            recipe = parse_recipe(text or "")
            shown, notes, controls = self._restore(visitor, recipe)
            sentence = " ".join([LOADED, *notes])
            return [shown, status_update(sentence, "idle"), sentence, *controls]
        except Exception as fault:
            return [gr.skip(), gr.skip(), error_message(fault), *self._nothing]

    def upload(self, visitor: Visitor, path: str | None) -> list:
        """As `load`, of a file; first its text."""
        try:
            file = Path(path or "")
            if not file.is_file() or file.stat().st_size > LONGEST_YAML:
                raise ComposerError("Choose a recipe's YAML file; this one is too large.")
            text = file.read_text("utf-8")
        except (ComposerError, OSError, UnicodeDecodeError) as fault:
            words = error_message(fault) if isinstance(fault, ComposerError) else "The file is no YAML text."
            return [gr.skip(), gr.skip(), gr.skip(), words, *self._nothing]
        return [text, *self.load(visitor, text)]

    def opened(self, visitor: Visitor, request: gr.Request) -> list:
        """The controls as the link has them, if the page was opened by one.

        Returns the tab, the live view, the next words and the controls.
        """
        parameter = request.query_params.get(PARAMETER)
        if parameter is None or self._for_another_page(parameter, request):
            return [gr.skip(), gr.skip(), gr.skip(), *self._nothing]
        try:
            recipe = decode(parameter)
            shown, notes, controls = self._restore(visitor, recipe)
            first = BROUGHT if CARRIED in request.query_params else RESTORED
            view = empty_view(self._context, recipe.prompt, " ".join([first, *notes]))
            return [shown, view, next_words.message(next_words.EMPTY), *controls]
        except Exception as fault:
            return [gr.skip(), status_update(error_message(fault)), gr.skip(), *self._nothing]

    def _for_another_page(self, parameter: str, request: gr.Request) -> bool:
        """Whether the menu takes the visitor to another base's page, which opens the link."""
        menu = self._menu
        return menu is not None and (BASE in request.query_params or asked_by(parameter, menu) is not None)

    def _restore(self, visitor: Visitor, recipe: Recipe) -> tuple[dict, list[str], list]:
        """The tab's update, sentences on what is other here, and the controls. Raises ComposerError."""
        context, own_id = self._context, self._context.runner.engine.base.id
        other = self._menu and recipe.base.id != own_id and self._menu.of_id(recipe.base.id)
        if other:
            raise ComposerError(
                f"The recipe is for {label_of(other)}: choose that base at the top, and load it there."
            )
        own = {each.name: adapter_source(each.adapter.source, each.adapter.revision) for each in visitor.own}
        notes = check_recipe(context.runner.engine, recipe, context.runner.catalog_names, own)
        if len(recipe.prompt) > context.settings.max_prompt_chars:
            raise ComposerError(
                f"The recipe's prompt is longer than {context.settings.max_prompt_chars} characters."
            )
        check_method(recipe.composition.method)
        controls = self._mixing.restore(visitor, recipe.prompt, recipe.composition, recipe.sampling)
        tab = recipe.tab if recipe.tab in TABS else "compose"
        return gr.update(selected=tab), notes, controls
