"""One endpoint for each action of the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from gradio.data_classes import FileData

from composer.adapters.hub import search
from composer.adapters.recipe import recipe_yaml
from composer.analysis.explanation import Explanation
from composer.analysis.findings import findings
from composer.core.composition import Composition
from composer.core.errors import ComposerError, check_int
from composer.core.jsonable import to_jsonable
from composer.core.names import unknown_name_message
from composer.core.results import Fusion, Step
from composer.engine.recipes import recipe_of
from composer.engine.resolve import lane_names
from composer.engine.scheduler import QueueUpdate
from composer.evaluation.dose.sweep import Axis, Dose, DosePlan
from composer.methods import METHODS
from composer.ui.api.arguments import (
    Argument,
    as_object,
    endpoint,
    mix_arguments,
    read_ids,
    read_request,
)
from composer.ui.context import PageContext
from composer.ui.error_messages import error_message
from composer.ui.handlers.comparing import choose_texts, without_none
from composer.ui.handlers.dosing import Dosing
from composer.ui.handlers.exporting import zipped
from composer.ui.runners.throttle import throttled
from composer.ui.sharing import PARAMETER, encode
from composer.ui.tabs.adapters import size
from composer.ui.validation import Request, check_prompt, check_source
from composer.ui.views.comparison import Comparison

MOST_SEEDS = 8
MIX = mix_arguments()


class Endpoints:
    """The work behind each endpoint. Every method takes the arguments by name."""

    def __init__(self, context: PageContext, dosing: Dosing):
        self._context, self._dosing = context, dosing

    async def generate(self, asked: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        context, runner = self._context, self._context.runner
        request, names = await self._read(asked)
        steps, fusion, position = [], None, 0
        items = runner.run(request, names, read=False)
        async with aclosing(throttled(items, context.settings.updates_per_second)) as groups:
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
            "adapters": list(lane_names(request.composition, names)),
            "layers": runner.engine.model.layers,
            "contribution": [step.contribution.tolist() for step in steps],
            "fusion": _plain(fusion),
            "finish": steps[-1].finish if steps else None,
        }

    async def fuse(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        context, adapters = self._context, asked["adapters"]
        text = check_prompt(asked["prompt"], context.settings.max_prompt_chars)
        names = _as_names(adapters, context.runner.catalog_names)
        own = Composition(norm=bool(asked["norm"]), tokens=asked["tokens"])
        fusion = await asyncio.to_thread(context.runner.fuse, text, names, own.norm, own.tokens)
        return {"adapters": list(names), **_plain(fusion), "undecided": fusion.undecided.tolist()}

    async def next_words(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        request, names = await self._read(asked)
        found = await asyncio.to_thread(self._context.runner.next_tokens, request, names)
        return {
            "words": list(found.pieces),
            "tokens": list(found.tokens),
            "base": found.base.tolist(),
            "composed": found.composed.tolist(),
            "adapters": list(found.adapters),
            "push": found.push.tolist(),
            "kl": found.kl,
        }

    async def compare(self, asked: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        context = self._context
        request, names = await self._read(asked)
        methods = asked["methods"] or [request.composition.method]
        if not isinstance(methods, list) or not set(methods) <= set(METHODS):
            raise ComposerError("Give the methods as a list of names; docs/methods.md has them.")
        count = check_int("The number of texts", asked["texts"], 1, MOST_SEEDS)
        legend = context.by_name(request.added)
        comparison = Comparison.of(request, methods, count, context.meters.judges, legend)
        done, items = 0, context.runner.run_many(comparison.requests, names)
        async with aclosing(throttled(without_none(items), 2)) as groups:
            async for group in groups:
                for index, news in group:
                    comparison.add(index, news if isinstance(news, Step) else error_message(news))
                    done += isinstance(news, Exception) or news.finish is not None
                yield {"done": done, "total": len(comparison.requests)}
        comparison.score(await asyncio.to_thread(context.runner.perplexities, comparison.finished_texts))
        async for _ in choose_texts(context.runner, comparison):
            pass
        rows = comparison.rows()
        yield {
            "seeds": list(comparison.seeds),
            "columns": [
                {
                    "title": column.title,
                    "composition": column.composition.as_dict(),
                    "texts": own.texts,
                    "likeliest": own.likeliest,
                    "fault": own.fault,
                    "scores": {row.label: row.shown[place] for row in rows},
                }
                for place, (column, own) in enumerate(zip(comparison.columns, comparison.own, strict=True))
            ],
        }

    async def explain(self, asked: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        context = self._context
        request, names = await self._read(asked)
        async with aclosing(throttled(context.runner.explain(request, names), 2)) as groups:
            async for group in groups:
                for event in group:
                    if isinstance(event, Explanation):
                        told = findings(event, {each: each for each in event.adapters})
                        yield {"findings": told, **event.to_json()}
                    elif isinstance(event, str):
                        yield {"stage": event}

    async def dose(self, asked: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        context = self._context
        sweep, weights = as_object(asked["sweep"]), as_object(asked["weights"])
        if not isinstance(sweep, Mapping) or not isinstance(weights, Mapping):
            raise ComposerError('Give weights and sweep as objects, a sweep such as {"sports": [0, 2, 9]}.')
        request, _ = await self._read(asked)
        visitor, called = await asyncio.to_thread(read_ids, context, [*weights, *sweep])
        axes = tuple(Axis.between(called.get(name, name), *_three(span)) for name, span in sweep.items())
        prompts = asked["prompts"] or [request.prompt]
        if not isinstance(prompts, list):
            raise ComposerError("Give the prompts as a list of texts.")
        texts = tuple(check_prompt(each, context.settings.max_prompt_chars) for each in prompts)
        count = check_int("The number of texts", asked["texts"], 1, MOST_SEEDS)
        seeds = tuple(request.sampling.seed + place for place in range(count))
        dose = self._dosing.checked(DosePlan(request.composition, axes, texts, seeds))
        async for _ in self._dosing.written(dose, request, visitor):
            yield {"done": len(dose.texts) + len(dose.faults), "total": len(dose.plan.tasks)}
        yield _swept(dose)

    async def adapters(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        engine = self._context.runner.engine
        reports = {report.name: report for report in engine.reports if report.ok}
        return {
            "base": engine.base.id,
            "adapters": [
                {
                    "name": each.name,
                    "label": each.label,
                    "description": each.description,
                    "size": size(reports.get(each.name)),
                }
                for each in self._context.adapters
            ],
            "methods": [{"name": each.name, "help": each.help} for each in METHODS.values()],
        }

    async def search_adapters(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        base = self._context.runner.engine.base.id
        found = await asyncio.to_thread(search, base, str(asked["words"]))
        return {"base": base, "found": [to_jsonable(vars(each)) for each in found]}

    async def check_adapter(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        source, revision = check_source(asked["source"], folders=False)
        report, card = await asyncio.to_thread(self._context.runner.added.check, source, revision)
        return {
            "source": source,
            "revision": report.revision,
            "fits": report.ok,
            "reasons": list(report.reasons),
            "size": size(report),
            "card": to_jsonable(vars(card)),
        }

    async def recipe(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        request, _ = await self._read(asked)
        runner, asked_for = self._context.runner, (request.prompt, request.composition, request.sampling)
        made = recipe_of(runner.engine, *asked_for, "compose", runner.sources(request))
        return {"yaml": recipe_yaml(made), "link": f"?{PARAMETER}={encode(made)}"}

    async def export(self, asked: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        request, _ = await self._read(asked)
        async with zipped(self._context, request, asked["export_rank"] or None) as (archive, _):
            # Gradio copies it before this goes on.
            yield FileData(path=archive, orig_name="mix.zip").model_dump()

    async def _read(self, asked: Mapping[str, Any]) -> tuple[Request, tuple[str, ...]]:
        """The request, and the adapters there are for it. It may have to download some."""
        request = await asyncio.to_thread(read_request, self._context, asked)
        return request, self._context.names(request.added)


def make_endpoints(context: PageContext, dosing: Dosing) -> dict[str, Callable[..., Any]]:
    """The functions that `gr.api` publishes, by name. Faults reach the caller as one sentence."""
    work = Endpoints(context, dosing)
    own = dict(MIX)
    described = {
        "generate": (
            "Continue a prompt under a mix of adapters. Streams text, count and place in the queue (0: no "
            "longer in it). The last message has text, count, tokens, adapters (the merged one last, where "
            "the method makes one: called by the method, in brackets beside an adapter of that name), "
            "layers, contribution [T][L][N], fusion {kl, alpha} [L][N] and finish.",
            own,
        ),
        "fuse": (
            "The prompt's fusion weights: adapters [N], kl [L][N] in nats, alpha [L][N], undecided [L].",
            {
                "prompt": Argument(str, "the beginning of a text"),
                "adapters": Argument(list[str] | None, "which adapters of the catalog (all)", None),
                "norm": Argument(bool, "the lens applies the final norm", True),
                "tokens": Argument(str, "last: at the prompt's last token; all: the mean over all", "last"),
            },
        ),
        "next_words": (
            "The ten likeliest next words after a prompt, under the base and under the mix, with what each "
            "adapter alone adds to each (push, nats), and how far the mix moves the choice (kl, nats).",
            own,
        ),
        "compare": (
            "One prompt under the base, each adapter alone, and the mix by several methods: texts with the "
            "judges' verdicts, perplexity and distinct-2.",
            {
                **own,
                "methods": Argument(list[str], "the methods to compare (the mix's own)", []),
                "texts": Argument(int, f"texts of each column, 1 to {MOST_SEEDS}", 1),
            },
        ),
        "explain": (
            "What a mix does inside the model on a prompt: who pulls against whom in which layers, whether "
            "the sum holds for each word, who is loud where, and which layers matter; in sentences and in "
            "numbers.",
            own,
        ),
        "dose": (
            "Sweep one adapter's weight, or two: judge score, perplexity and repetition at each weight, and "
            "the sweet spot.",
            {
                **own,
                "sweep": Argument(
                    dict[str, list[float]],
                    'adapters and [lowest, highest, how many], {"sports": [0, 2, 9]}',
                    {},
                ),
                "prompts": Argument(list[str], "the prompts to continue (the prompt alone)", []),
                "texts": Argument(int, f"texts of each prompt at each weight, 1 to {MOST_SEEDS}", 1),
            },
        ),
        "adapters": ("The base, its adapters and the methods that there are.", {}),
        "search_adapters": (
            "Adapters of this base on the Hugging Face Hub, most downloaded first.",
            {"words": Argument(str, "parts of their names; empty for all", "")},
        ),
        "check_adapter": (
            "Whether an adapter of the Hub fits this base, and why not. Downloads no weights.",
            {"source": Argument(str, "owner/name, owner/name@revision or its address")},
        ),
        "recipe": (
            "A mix as a recipe in YAML, for composer generate --recipe, and as a link's parameters that open "
            "the page on it.",
            own,
        ),
        "export": (
            "A mix as one plain PEFT adapter, with a model card and the recipe, as a zip file.",
            {**own, "export_rank": Argument(int, "cut every site to this rank; 0: exact", 0)},
        ),
    }
    return {
        name: endpoint(
            name,
            words,
            arguments,
            getattr(work, name),
            FileData if name == "export" else dict[str, Any],
        )
        for name, (words, arguments) in described.items()
    }


def _plain(fusion: Fusion) -> dict[str, list]:
    return {"kl": fusion.kl.tolist(), "alpha": fusion.alpha.tolist()}


def _three(span: object) -> tuple[Any, Any, Any]:
    if not isinstance(span, list | tuple) or len(span) != 3:
        raise ComposerError("Give each adapter of the sweep three numbers: lowest, highest, how many.")
    return tuple(span)


def _swept(dose: Dose) -> dict[str, Any]:
    head, table = dose.table()
    spot = dose.sweet_spot()
    rows = [dict(zip(head, row, strict=True)) for row in table]
    return {"rows": rows, "sweet_spot": spot.sentence, "faults": dose.faults[:3]}


def _as_names(adapters: object, names: tuple[str, ...]) -> tuple[str, ...]:
    if adapters is None:
        return names
    if not isinstance(adapters, list) or not adapters:
        raise ComposerError("Give the adapters to compare as a list of names, or leave them out for all.")
    for name in adapters:
        if name not in names:
            raise ComposerError(unknown_name_message("adapter", name, names))
    return tuple(dict.fromkeys(adapters))
