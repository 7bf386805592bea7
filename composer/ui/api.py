"""The page's actions for programs: `generate` and `fuse` through gradio_client or plain HTTP."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import gradio as gr

from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message
from composer.core.parameters import parameters_of
from composer.core.results import Fusion, Step
from composer.engine.resolve import lane_names
from composer.engine.scheduler import QueueUpdate
from composer.ui.components.weight_sliders import read_weights
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.runners.throttle import throttled
from composer.ui.validation import check_prompt, make_request


def make_endpoints(context: PageContext) -> tuple[Callable, Callable]:
    """The functions that `gr.api` publishes. Faults reach the caller as one sentence."""
    runner, settings = context.runner, context.settings

    async def generate(*given: Any, **named: Any) -> dict[str, Any]:
        """Continue a prompt under a composition. Streams {"text", "count", "place"}: of the text so far, and
        in the queue (0: no longer in it). The last message has text, count, tokens, adapters (the merged one
        last, where the method makes one: called by the method, in brackets beside an adapter of that name),
        layers, contribution [T][L][N], fusion {kl, alpha} [L][N] and finish."""
        bound = SIGNATURE.bind(*given, **named)
        bound.apply_defaults()
        asked = bound.arguments
        visitor = context.callers(_session(asked["request"]))
        with _sentences():
            request = make_request(
                asked["prompt"],
                read_weights(_as_object(asked["weights"]), context.names(visitor.own)),
                asked["method"],
                _as_bands(asked["bands"]),
                {name: asked[name] for name in parameters_of(Composition)},
                {name: asked[name] for name in parameters_of(Sampling) if name != "time_limit"},
                settings,
                curves=_as_object(asked["curves"]),
                schedule=_as_object(asked["schedule"]),
                visitor=visitor,
            )
            names = context.names(request.added)
            adapters = list(lane_names(request.composition, names))
            steps, fusion, position = [], None, 0
            async with aclosing(
                throttled(runner.run(request, names, read=False), settings.updates_per_second)
            ) as groups:
                async for group in groups:
                    steps += [each for each in group if isinstance(each, Step)]
                    fusion = next((each for each in group if isinstance(each, Fusion)), fusion)
                    updates = (each.position for each in group if isinstance(each, QueueUpdate))
                    position = next(updates, position)
                    yield {"text": steps[-1].text if steps else "", "count": len(steps), "place": position}
        yield {
            "text": steps[-1].text if steps else "",
            "count": len(steps),
            "tokens": [step.token for step in steps],
            "adapters": adapters,
            "layers": runner.engine.model.layers,
            "contribution": [step.contribution.tolist() for step in steps],
            "fusion": _plain(fusion),
            "finish": steps[-1].finish if steps else None,
        }

    # From these Gradio makes the endpoint's documentation.
    generate.__signature__ = SIGNATURE
    generate.__annotations__ = {name: each.annotation for name, each in SIGNATURE.parameters.items()}

    def fuse(
        prompt: str,
        adapters: list[str] | None = None,
        norm: bool = True,
        tokens: str = "last",
    ) -> dict[str, Any]:
        """The prompt's fusion weights: adapters [N], kl [L][N] in nats, alpha [L][N], undecided [L]."""
        with _sentences():
            text = check_prompt(prompt, settings.max_prompt_chars)
            names = _as_names(adapters, runner.catalog_names)
            asked = Composition(norm=bool(norm), tokens=tokens)
            fusion = runner.fuse(text, names, asked.norm, asked.tokens)
        return {"adapters": list(names), **_plain(fusion), "undecided": fusion.undecided.tolist()}

    return generate, fuse


def _signature() -> inspect.Signature:
    """The arguments of `generate`. Their order never changes, since callers may count them."""
    own, defaults = parameters_of(Composition), Composition()
    arguments: dict[str, tuple[Any, Any]] = {
        "prompt": (str, inspect.Parameter.empty),
        "weights": (dict[str, float], inspect.Parameter.empty),
        "method": (str, defaults.method),
        "strength": (float, defaults.strength),
        "bands": (list[float], list(defaults.bands)),
    }
    sampling = parameters_of(Sampling)
    del sampling["time_limit"]  # it belongs to whoever runs the page
    simple = {name: each for name, each in own.items() if not each.advanced}
    for name, each in (simple | sampling | own).items():
        kind = each.kind | None if each.optional else each.kind
        arguments.setdefault(name, (kind, each.default))
    arguments["curves"] = (dict[str, list[float]], {})
    arguments["schedule"] = (dict[str, list[int | None]], {})
    # Gradio fills it in and does not show it to callers.
    arguments["request"] = (gr.Request, None)
    return inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)
            for name, (kind, default) in arguments.items()
        ],
        return_annotation=dict[str, Any],
    )


SIGNATURE = _signature()


def _session(request: gr.Request | None) -> str | None:
    return None if request is None else request.session_hash


class _sentences:
    """Re-raises every error as gr.Error, whose text callers see, without its traceback."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind, fault, trace) -> None:
        if isinstance(fault, Exception):
            raise gr.Error(error_message(fault), print_exception=False) from None


def _plain(fusion: Fusion) -> dict[str, list]:
    return {"kl": fusion.kl.tolist(), "alpha": fusion.alpha.tolist()}


def _as_object(given: object) -> object:
    """Objects may also come as the text of a JSON object."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given[:10_000])
    except ValueError:
        return None


def _as_bands(bands: object) -> tuple:
    if not isinstance(bands, list | tuple):
        raise ComposerError("Layer bands need three numbers: early, middle and late.")
    return tuple(bands)


def _as_names(adapters: object, names: tuple[str, ...]) -> tuple[str, ...]:
    if adapters is None:
        return names
    if not isinstance(adapters, list) or not adapters:
        raise ComposerError("Give the adapters to compare as a list of names, or leave them out for all.")
    for name in adapters:
        if name not in names:
            raise ComposerError(unknown_name_message("adapter", name, names))
    return tuple(dict.fromkeys(adapters))
