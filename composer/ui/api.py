"""The page's actions for programs: `generate` and `fuse` through gradio_client or plain HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import gradio as gr

from composer.core.composition import Composition
from composer.core.errors import ComposerError
from composer.core.names import unknown_name_message
from composer.core.results import Fusion, Step
from composer.engine.resolve import lane_names
from composer.engine.scheduler import QueueUpdate
from composer.ui.components.weight_sliders import read_weights
from composer.ui.error_messages import told
from composer.ui.runners.base import Runner
from composer.ui.runners.throttle import throttled
from composer.ui.settings import Settings
from composer.ui.validation import check_prompt, make_request


def make_endpoints(runner: Runner, settings: Settings) -> tuple[Callable, Callable]:
    """The two functions that `gr.api` publishes. Faults reach the caller as one sentence."""

    async def generate(
        prompt: str,
        weights: dict[str, float],
        method: str = "sum",
        strength: float = 1.0,
        bands: list[float] = [1.0, 1.0, 1.0],  # noqa: B006 -- gr.api reads defaults into JSON; never changed
        blend: float = 1.0,
        scale: str = "unit",
        contrast: float = 1.0,
        max_new_tokens: int = 60,
        temperature: float = 1.0,
        top_p: float = 0.95,
        top_k: int = 50,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        norm: bool = True,
        tokens: str = "last",
        live: int = 0,
        rank: int | None = None,
        density: float | None = None,
        core: float | None = None,
        omega: float | None = None,
    ) -> dict[str, Any]:
        """Continue a prompt under a composition. Streams {"text", "count", "place"}: of the text so far, and
        in the queue (0: no longer in it). The last message has text, count, tokens, adapters (the merged one
        last, where the method makes one: called by the method, in brackets beside an adapter of that name),
        layers, contribution [T][L][N], fusion {kl, alpha} [L][N] and finish."""
        with _sentences():
            request = make_request(
                prompt,
                read_weights(_as_object(weights), runner.engine.names),
                method,
                _as_bands(bands),
                {
                    "strength": strength,
                    "blend": blend,
                    "scale": scale,
                    "contrast": contrast,
                    "norm": norm,
                    "tokens": tokens,
                    "live": live,
                    "rank": rank,
                    "density": density,
                    "core": core,
                    "omega": omega,
                },
                {
                    "max_new_tokens": max_new_tokens,
                    "temperature": temperature,
                    "top_p": top_p,
                    "top_k": top_k,
                    "repetition_penalty": repetition_penalty,
                    "seed": seed,
                },
                settings,
            )
            names = runner.engine.names
            adapters = list(lane_names(request.composition, names))
            steps, fusion, place = [], None, 0
            async with aclosing(throttled(runner.run(request, names), settings.updates_per_second)) as groups:
                async for group in groups:
                    steps += [each for each in group if isinstance(each, Step)]
                    fusion = next((each for each in group if isinstance(each, Fusion)), fusion)
                    place = next((each.position for each in group if isinstance(each, QueueUpdate)), place)
                    yield {"text": steps[-1].text if steps else "", "count": len(steps), "place": place}
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

    def fuse(
        prompt: str, adapters: list[str] | None = None, norm: bool = True, tokens: str = "last"
    ) -> dict[str, Any]:
        """The prompt's fusion weights: adapters [N], kl [L][N] in nats, alpha [L][N], undecided [L]."""
        with _sentences():
            text = check_prompt(prompt, settings.max_prompt_chars)
            names = _as_names(adapters, runner.engine.names)
            asked = Composition(norm=bool(norm), tokens=tokens)
            fusion = runner.fuse(text, names, asked.norm, asked.tokens)
        return {"adapters": list(names), **_plain(fusion), "undecided": fusion.undecided.tolist()}

    return generate, fuse


class _sentences:
    """Lets every fault out as gr.Error, whose text callers see, and hides where it came from."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind, fault, trace) -> None:
        if isinstance(fault, Exception):
            raise gr.Error(told(fault), print_exception=False) from None


def _plain(fusion: Fusion) -> dict[str, list]:
    return {"kl": fusion.kl.tolist(), "alpha": fusion.alpha.tolist()}


def _as_object(weights: object) -> object:
    """Weights may also come as the text of a JSON object."""
    if not isinstance(weights, str):
        return weights
    try:
        return json.loads(weights[:10_000])
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
