"""The page in a browser: opening it, a slider's way to the panel, and what a token costs the main thread."""

from __future__ import annotations

import time

from benchmarks.chromium import COMPILED, chromium, serving
from benchmarks.fixture import BenchFixture
from benchmarks.plan import Plan, prompt_of
from benchmarks.timing import quantile
from composer.core.assets import ASSETS
from composer.model.runtime.native.library import CompilerError, step_library

USABLE = """() => {
  const generate = document.querySelector("button#generate");
  return generate && !generate.disabled && document.querySelectorAll(".live-token").length > 0
    && document.querySelectorAll("#mix .weight input[type=range]").length > 0;
}"""
# Sets a slider as a hand does, and resolves with the milliseconds until the panel has other words.
MOVE = """(value) => new Promise((done) => {
  const field = document.querySelector("#one-sports input[type=number]");
  const handle = document.querySelector("#one-sports input[type=range]");
  const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
  set.call(field, value);
  field.dispatchEvent(new Event("input", { bubbles: true }));
  setTimeout(() => {
    setTimeout(() => done(NaN), 20000);
    const began = performance.now();
    new MutationObserver((_, seen) => {
      seen.disconnect();
      done(performance.now() - began);
    }).observe(document.querySelector(".next-list"), { childList: true });
    handle.dispatchEvent(new Event("pointerup", { bubbles: true }));
  }, 60);
})"""
WRITTEN = "document.querySelector('#live canvas').composer.count"


def measure(fixture: BenchFixture, plan: Plan) -> dict:
    """Seconds to open, of a move under a prompt of some tokens, and of the main thread a token.

    The fixture only counts the prompt's tokens: the page is that of this repository's catalog, compiled where
    there is a compiler.
    """
    prompt, compiled = prompt_of(fixture.count_tokens, plan.preview_prompt), _has_compiler()
    server = serving(logged=COMPILED, COMPOSER_COMPILE="1") if compiled else serving()
    with server as address, chromium() as browser:
        opens = [_opened(browser, address) for _ in range(plan.page_opens + 1)][1:]
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.goto(address)
        page.wait_for_selector(".live-status[data-phase=recorded]", timeout=60_000)
        page.fill("#prompt textarea", prompt)
        moves = [
            page.evaluate(MOVE, f"{0.5 + 0.05 * (move % 29):.2f}") for move in range(plan.page_moves + 1)
        ][1:]
        return {
            "compiled": compiled,
            "opens": len(opens),
            "open_p50": quantile(opens, 0.5),
            "open_p95": quantile(opens, 0.95),
            "moves": len(moves),
            "prompt_tokens": fixture.count_tokens(prompt),
            "move_p50": quantile(moves, 0.5) / 1000,
            "move_p95": quantile(moves, 0.95) / 1000,
            **_writing(page),
            "assets": sum(file.stat().st_size for file in (ASSETS / "ui").rglob("*") if file.is_file())
            + max((file.stat().st_size for file in (ASSETS / "recordings").glob("*.json")), default=0),
        }


def _has_compiler() -> bool:
    try:
        step_library()
    except CompilerError:
        return False
    return True


def _opened(browser, address: str) -> float:
    """Seconds until the controls are usable, with an empty cache."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_function(USABLE, polling=20, timeout=60_000)
    seconds = time.perf_counter() - began
    context.close()
    return seconds


def _writing(page) -> dict:
    """Main-thread time a token while a text is written: tasks of all kinds, scripts, layout and paint."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def busy() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "TaskDuration")

    page.click("#generate")
    page.wait_for_selector(".live-status[data-phase=writing]", timeout=60_000)
    first, before, began = page.evaluate(WRITTEN), busy(), time.perf_counter()
    page.wait_for_selector(".live-status[data-phase=fusing], .live-status[data-phase=done]", timeout=120_000)
    seconds, after, last = time.perf_counter() - began, busy(), page.evaluate(WRITTEN)
    page.wait_for_selector(".live-status[data-phase=done]", timeout=60_000)
    tokens = max(1, last - first)
    return {
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "main_thread": (after - before) / tokens,
    }
