"""Many people at once: a thread a user, all through one scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

import psutil
import torch

from benchmarks.fixture import COMPILE_TIMEOUT, USUAL, BenchFixture
from benchmarks.plan import Plan, expect, prompt_of
from benchmarks.roofline import bare_products
from benchmarks.timing import Moment, now, quantile
from composer.core.composition import Composition, Sampling
from composer.core.threads import run_in_short_lived_thread
from composer.engine.scheduler import Scheduler

SLOTS = 32
BARE_TOKENS = 8


@dataclass(frozen=True)
class _User:
    """When a user asked, read the first token, and read the last."""

    asked: Moment
    first: Moment
    last: Moment


def measure(fixture: BenchFixture, plan: Plan) -> dict:
    """Per number of users: tokens a second together and each, seconds to the first token, memory; and the
    tokens a second that as many rows' bare products would leave, were there nothing else to do.

    "float32": the same counts on a CPU that reads the weights as they are loaded.
    """
    result = {"tokens": plan.user_tokens, "prompt_tokens": plan.user_prompt, "slots": SLOTS}
    result["counts"] = _counts(fixture, plan, "same")
    if fixture.device.type == "cpu" and fixture.spec.quantization == "none":
        result["float32"] = _counts(fixture, plan, "float32")
    return result


def _counts(fixture: BenchFixture, plan: Plan, weights: str) -> dict[str, dict]:
    walls = {count: bare_products(fixture.reference_base, count) for count in plan.users}
    bare: dict[int, list[float]] = {count: [] for count in plan.users}
    users: dict[int, list[list[_User]]] = {count: [] for count in plan.users}
    memory = dict.fromkeys(plan.users, 0)
    engine = run_in_short_lived_thread(lambda: fixture.ours(USUAL, weights=weights))  # as the page loads it
    engine.warm_up().wait(COMPILE_TIMEOUT)
    scheduler = Scheduler(engine, slots=SLOTS)
    try:
        for turn in range(-1, plan.user_rounds):
            for count in plan.users:
                users_at_once = crowd(
                    scheduler, engine.names, prompts(fixture.count_tokens, plan, count), plan
                )
                if turn >= 0:  # the first turn of each is for allocations and captures
                    users[count].append(users_at_once)
                    bare[count].append(count / walls[count](BARE_TOKENS).seconds)
                memory[count] = max(memory[count], memory_held(fixture.device))
    finally:
        scheduler.close()
    return {
        str(count): {
            **figures(users[count], plan.user_tokens, memory[count]),
            "bare": quantile(bare[count], 0.5),
        }
        for count in plan.users
    }


def prompts(count_tokens: Callable[[str], int], plan: Plan, count: int) -> list[str]:
    """A prompt of their own for each of `count` users."""
    return [prompt_of(count_tokens, plan.user_prompt, first=number) for number in range(count)]


def crowd(scheduler: Scheduler, names: Sequence[str], asked: Sequence[str], plan: Plan) -> list[_User]:
    """A user for each prompt, who all begin together.

    Each has weights of these adapters and a seed of their own.
    """
    start = Barrier(len(asked))

    def user(number: int) -> _User:
        weights = {name: 0.5 + (number + place) % 4 / 4 for place, name in enumerate(names)}
        sampling = Sampling(max_new_tokens=plan.user_tokens, seed=number, time_limit=3600)
        start.wait()
        began = now()
        steps = scheduler.generate(asked[number], Composition(weights=weights), sampling)
        next(steps)
        first = now()
        expect(1 + sum(1 for _ in steps), plan.user_tokens)
        return _User(began, first, now())

    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(user, range(len(asked))))


def figures(runs: list[list[_User]], tokens: int, memory: int) -> dict:
    spans = [_span(users) for users in runs]
    totals = [len(users) * tokens / span for users, (span, _) in zip(runs, spans, strict=True)]
    everyone = [user for users in runs for user in users]
    waits = [user.first.wall - user.asked.wall for user in everyone]
    rates = [tokens / (user.last.wall - user.asked.wall) for user in everyone]
    cpu = [busy / (len(users) * tokens) for users, (_, busy) in zip(runs, spans, strict=True)]
    return {
        "total": quantile(totals, 0.5),
        "total_p10": quantile(totals, 0.1),
        "total_p90": quantile(totals, 0.9),
        "each": quantile(rates, 0.5),
        "first_p50": quantile(waits, 0.5),
        "first_p95": quantile(waits, 0.95),
        "cpu": quantile(cpu, 0.5),
        "memory": memory,
        "count": len(runs),
    }


def _span(users: list[_User]) -> tuple[float, float]:
    """Wall and CPU seconds from the first question to the last token."""
    began = min(user.asked for user in users)
    ended = max(user.last for user in users)
    return ended.wall - began.wall, ended.cpu - began.cpu


def memory_held(device: torch.device) -> int:
    """Bytes this process holds now: on a GPU there, else in RAM."""
    return (
        torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss
    )
