"""The arguments of the endpoints: declared once, bound from what a caller sent, checked as the page's are."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from composer.adapters.hub import valid_repo_id
from composer.core.composition import Composition, Sampling
from composer.core.errors import ComposerError
from composer.core.parameters import Parameter, parameters_of
from composer.ui.components.weight_sliders import read_weights
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.validation import Request, make_request
from composer.ui.visitors import Visitor

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Argument:
    """One argument of an endpoint. A default of REQUIRED is none."""

    kind: Any
    help: str
    default: Any = REQUIRED


def _declared(each: Parameter) -> Argument:
    kind = each.kind | None if each.optional else each.kind
    return Argument(kind, each.help or each.label.lower(), each.default)


# Parameters of a Composition that callers know as the last ones, since they came after curves and schedules.
LATER = ("top_adapters", "floor", "projection", "accept")


def mix_arguments() -> dict[str, Argument]:
    """Prompt, composition and sampling. Their order never changes, since callers may count them."""
    own, defaults = parameters_of(Composition), Composition()
    later = {name: own.pop(name) for name in LATER}
    arguments = {
        "prompt": Argument(str, "the beginning of a text"),
        "weights": Argument(
            dict[str, float],
            'how much of each adapter, such as {"positive": 1, "sports": 1.25}; one of the Hub is named by '
            "its id, owner/name or owner/name@revision",
        ),
        "method": Argument(str, "how the adapters are composed; docs/methods.md lists them", defaults.method),
        "strength": _declared(own["strength"]),
        "bands": Argument(
            list[float], "multipliers of the early, middle and late layers", list(defaults.bands)
        ),
    }
    sampling = parameters_of(Sampling)
    del sampling["time_limit"]  # it belongs to whoever runs the page
    simple = {name: each for name, each in own.items() if not each.advanced}
    for name, each in (simple | sampling | own).items():
        arguments.setdefault(name, _declared(each))
    arguments["curves"] = Argument(
        dict[str, list[float]], "an adapter's multipliers over the layers, first to last", {}
    )
    arguments["schedule"] = Argument(
        dict[str, list[int | None]], "the first and the last new token that an adapter acts on", {}
    )
    return arguments | {name: _declared(each) for name, each in later.items()}


def endpoint(
    name: str,
    words: str,
    arguments: Mapping[str, Argument],
    work: Callable[[dict[str, Any]], AsyncIterator[Any] | Awaitable[Any]],
    returns: Any = dict[str, Any],
) -> Callable[..., Any]:
    """A function that Gradio can publish: with a signature, a docstring, and one sentence for each fault.

    work: takes the arguments by name; an async generator streams.
    """
    signature = inspect.Signature(
        [
            inspect.Parameter(
                key, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=each.default, annotation=each.kind
            )
            for key, each in arguments.items()
        ],
        return_annotation=returns,
    )

    def bound(given: tuple, named: dict[str, Any]) -> dict[str, Any]:
        found = signature.bind(*given, **named)
        found.apply_defaults()
        return found.arguments

    call: Callable[..., Any]
    if inspect.isasyncgenfunction(work):

        async def call(*given: Any, **named: Any):
            with sentences():
                async for item in work(bound(given, named)):
                    yield item

    else:

        async def call(*given: Any, **named: Any):
            with sentences():
                return await work(bound(given, named))

    lines = "\n".join(f"    {key}: {each.help}" for key, each in arguments.items())
    # From these Gradio makes the endpoint's documentation, and the tool's.
    call.__name__, call.__doc__ = name, f"{words}\n\nArgs:\n{lines}"
    call.__signature__ = signature
    call.__annotations__ = {key: each.kind for key, each in arguments.items()} | {"return": returns}
    return call


class sentences:
    """Re-raises every error as gr.Error, whose text callers see, without its traceback."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind, fault, trace) -> None:
        if isinstance(fault, Exception):
            raise gr.Error(error_message(fault), print_exception=False) from None


def read_request(context: PageContext, asked: Mapping[str, Any]) -> Request:
    """The checked request of an endpoint's arguments; it may download adapters. Raises ComposerError."""
    weights, curves = as_object(asked["weights"]), as_object(asked["curves"])
    schedule = as_object(asked["schedule"])
    visitor, called = read_ids(context, weights if isinstance(weights, Mapping) else ())
    named = read_weights(_renamed(weights, called), context.names(visitor.own))
    return make_request(
        asked["prompt"],
        named,
        asked["method"],
        as_bands(asked["bands"]),
        {name: asked[name] for name in parameters_of(Composition)},
        {name: asked[name] for name in parameters_of(Sampling) if name != "time_limit"},
        context.settings,
        curves=_renamed(curves, called),
        schedule=_renamed(schedule, called),
        visitor=visitor,
    )


def read_ids(context: PageContext, names: Iterable[object]) -> tuple[Visitor, dict[str, str]]:
    """A visitor who has the adapters of the Hub among these names, and what each is called here."""
    ids = [
        name
        for name in names
        if isinstance(name, str)
        and name not in context.runner.catalog_names
        and valid_repo_id(name.partition("@")[0])
    ]
    return context.programs.visitor(_address(), ids)


def _address() -> str:
    """Of the program whose call this is."""
    request = LocalContext.request.get(None)
    client = None if request is None else request.client
    return "" if client is None else str(client.host)


def _renamed(values: object, called: Mapping[str, str]) -> object:
    if not isinstance(values, Mapping):
        return values
    return {called.get(name, name): value for name, value in values.items()}


def as_object(given: object) -> object:
    """Objects may also come as the text of a JSON object."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given[:10_000])
    except ValueError:
        return None


def as_bands(bands: object) -> tuple:
    if not isinstance(bands, list | tuple):
        raise ComposerError("Layer bands need three numbers: early, middle and late.")
    return tuple(bands)
