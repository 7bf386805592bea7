"""What all handlers of a page share: the engine's runner, the sliders, the presets and the legend."""

from __future__ import annotations

from composer.core.catalog_types import Example
from composer.core.composition import Composition
from composer.engine.resolve import lane_names
from composer.methods import METHODS
from composer.ui.components import contribution_map as live
from composer.ui.components import curves
from composer.ui.components.meters import Meters
from composer.ui.components.weight_sliders import WeightSlider, make_pool, to_weights
from composer.ui.generation_view import Progress
from composer.ui.recordings import RECORDINGS, Recording, load_recordings
from composer.ui.runners.base import Runner
from composer.ui.settings import Settings
from composer.ui.validation import Request, check_method, make_request


class PageContext:
    """Values of one page over one engine. What belongs to a visitor travels in gr.State."""

    def __init__(self, runner: Runner, settings: Settings):
        engine = runner.engine
        self.runner, self.settings = runner, settings
        self.slots: tuple[WeightSlider, ...] = make_pool(
            engine.snapshot.adapters, engine.attributes, settings.max_added
        )
        self.examples: tuple[Example, ...] = tuple(
            each for each in engine.catalog.examples if set(each.weights) <= set(engine.names)
        )
        self.default_composition: Composition = engine.base.spec.default_composition
        for method in {
            self.default_composition.method,
            *(each.method for each in self.examples if each.method),
        }:
            check_method(method)
        self.meters = Meters.load(self.legend())
        self.recordings: tuple[Recording | None, ...] = load_recordings(
            RECORDINGS, engine, [self.composition_of(each) for each in self.examples], self.examples
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
        weights = to_weights(self.slots, sliders, per_adapter, self.runner.added)
        read |= curves.read(read["curves"], self.runner.engine.names)
        return make_request(weights=weights, settings=self.settings, **read)

    def progress(self, request: Request, **known: object) -> Progress:
        """A generation of the request over the adapters that are loaded now. known: fields that it has."""
        engine = self.runner.engine
        lanes = self.lanes(request.composition)
        return Progress(request, engine.names, lanes, engine.model.layers, meters=self.meters, **known)

    def lanes(self, composition: Composition) -> list[dict[str, str]]:
        """The legend of a run: every adapter, and after them the merged one if the method makes one."""
        names = self.runner.engine.names
        if made := lane_names(composition, names)[len(names) :]:
            return [*self.legend(), live.merged(METHODS[composition.method], made[0])]
        return self.legend()

    def legend(self) -> list[dict[str, str]]:
        """Label and colour of every loaded adapter, in the order of every N axis."""
        return live.legend(self.runner.engine.snapshot.adapters, self.runner.catalog_names)

    def by_name(self) -> dict[str, dict[str, str]]:
        """The legend's entries by adapter."""
        return {each["name"]: each for each in self.legend()}
