"""What all handlers of a page share: the engine's runner, the sliders, the presets and the legend."""

from __future__ import annotations

from collections.abc import Sequence

from composer.core.catalog_types import AdapterSpec, Example
from composer.core.composition import Composition
from composer.engine.resolve import lane_names
from composer.methods import METHODS
from composer.ui.components import contribution_map as live
from composer.ui.components import curves
from composer.ui.components.meters import Meters
from composer.ui.components.weight_sliders import WeightSlider, make_pool, to_weights
from composer.ui.recordings import Recording, folder_of, load_recordings
from composer.ui.runners.base import Runner
from composer.ui.settings import Settings
from composer.ui.validation import Request, check_method, make_request
from composer.ui.views.generation import Progress
from composer.ui.visitors import Budget, Own, Programs, Visitor


class PageContext:
    """Values of one page over one engine. What belongs to a visitor travels in gr.State."""

    def __init__(self, runner: Runner, settings: Settings):
        engine = runner.engine
        self.runner, self.settings = runner, settings
        # Of the catalog; everybody has them.
        self.adapters: tuple[AdapterSpec, ...] = engine.snapshot.adapters
        self.slots: tuple[WeightSlider, ...] = make_pool(self.adapters, engine.attributes, settings.max_added)
        self.budget = Budget(settings.max_added, settings.visitor_mb * 1e6)
        self.programs = Programs(lambda: runner.added, self.budget)
        self.examples: tuple[Example, ...] = tuple(
            each for each in engine.catalog.examples if set(each.weights) <= set(engine.names)
        )
        self.default_composition: Composition = engine.base.spec.default_composition
        # The study is of the catalog's default base; another may have the same Hub id.
        self.is_default = engine.base.spec.name == engine.catalog.default
        for method in {
            self.default_composition.method,
            *(each.method for each in self.examples if each.method),
        }:
            check_method(method)
        self.meters = Meters.load(self.legend())
        self.recordings: tuple[Recording | None, ...] = load_recordings(
            folder_of(engine.base.spec, engine.catalog.default),
            engine,
            [self.composition_of(each) for each in self.examples],
            self.examples,
        )

    def composition_of(self, example: Example) -> Composition:
        """The composition that an example asks for."""
        asked = self.default_composition.as_dict() | {"weights": dict(example.weights)}
        if example.method is not None:
            asked["method"] = example.method
        if example.strength is not None:
            asked["strength"] = example.strength
        return Composition(**asked)

    def request(self, read: dict) -> Request:
        """The request of the controls' values, as Controls.read gives them. Raises ComposerError."""
        read = dict(read)
        per_adapter, sliders = read.pop("per_adapter"), read.pop("sliders")
        visitor: Visitor = read["visitor"]
        weights = to_weights(self.slots, sliders, per_adapter, self.added(visitor))
        read |= curves.read(read["curves"], [*self.runner.catalog_names, *(own.name for own in visitor.own)])
        return make_request(weights=weights, settings=self.settings, **read)

    def added(self, visitor: Visitor) -> list[str | None]:
        """The visitor's adapter of each spare slider, as weight_sliders.is_shown takes them."""
        return visitor.names(self.settings.max_added)

    def names(self, added: Sequence[Own] = ()) -> tuple[str, ...]:
        """The adapters there are for a visitor who uses these of their own, in the order of every N axis."""
        return (*self.runner.catalog_names, *(own.name for own in added))

    def progress(self, request: Request, **known: object) -> Progress:
        """A generation of the request over the adapters that are loaded now. known: fields that it has."""
        layers, names = self.runner.engine.model.layers, self.names(request.added)
        return Progress(request, names, self.lanes(request), layers, meters=self.meters, **known)

    def lanes(self, request: Request) -> list[dict[str, str]]:
        """The legend of a run: its adapters, and after them the merged one if the method makes one."""
        names, legend = self.names(request.added), self.legend(request.added)
        if made := lane_names(request.composition, names)[len(names) :]:
            return [*legend, live.merged(METHODS[request.composition.method], made[0])]
        return legend

    def legend(self, added: Sequence[Own] = ()) -> list[dict[str, str]]:
        """Label and colour of the adapters of `names`, in their order."""
        return [*live.legend(self.adapters), *(own.shown for own in added)]

    def by_name(self, added: Sequence[Own] = ()) -> dict[str, dict[str, str]]:
        """The legend's entries by adapter."""
        return {each["name"]: each for each in self.legend(added)}
