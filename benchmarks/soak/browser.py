"""Somebody with a browser: their hands on the page, and what they read there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from threading import Event
from time import monotonic
from typing import Any

from playwright.sync_api import BrowserContext, Error, Page, expect

from benchmarks.hands import clear_sliders, set_slider
from benchmarks.soak.plan import Dice, SoakPlan, World
from benchmarks.soak.program import HUNG
from benchmarks.soak.records import LEFT, SENTENCE, STOPPED, WHOLE, Answer, Asked, Recorder

# Milliseconds that a hand waits for the page of a busy machine.
PATIENCE = HUNG * 1000
STATUS = ".live-status"
# Notes every phase of the next text, so that the end of the last one is not taken for it.
WATCH = """() => {
  const status = document.querySelector('.live-status');
  window.soakPhases = [];
  window.soakWatch?.disconnect();
  window.soakWatch = new MutationObserver(() => window.soakPhases.push(status.dataset.phase));
  window.soakWatch.observe(status, { attributes: true, attributeFilter: ['data-phase'] });
}"""
ENDED = "['done', 'stopped', 'error'].includes(window.soakPhases.at(-1))"
WORDS = "(window.soakPhases.includes('writing') && document.querySelector('.live-tokens')?.textContent)"
# What a page says that was opened with somebody's mix: by a link, or from another base.
FROM_A_LINK = re.compile("as in the link|came along")
# What a page's own request leaves on the console when it is closed amid it.
CUT = (
    "ERR_ABORTED",
    "ERR_CONNECTION",
    "ERR_INCOMPLETE",
    "ERR_NETWORK",
    "status of 404",
    "Failed to fetch",
    # Gradio's client, which a page ends when it is left.
    "AbortError",
    "Connection errored out",
)
SAMPLING = {
    "temperature": "temperature",
    "top_p": "top-p",
    "top_k": "top-k",
    "repetition_penalty": "repetition",
}


class Hands:
    """One visitor with a browser of their own."""

    def __init__(
        self,
        name: str,
        browser: Any,
        address: str,
        world: World,
        plan: SoakPlan,
        recorder: Recorder,
        over: Event,
    ):
        self.name, self.address, self.recorder = name, address, recorder
        self.dice, self.base = Dice(world, plan, name), world.bases[0]
        self.over = over.is_set
        self._browser = browser
        self._context: BrowserContext | None = None
        self._page: Page | None = None
        self._drops = False
        self.reopen()

    @property
    def page(self) -> Page:
        assert self._page is not None
        return self._page

    # --- windows -------------------------------------------------------------------------------

    def reopen(self) -> None:
        """Close the window and open another one at the first base's page."""
        self.close()
        self.base, self._drops = self.dice.world.bases[0], False
        self._context = self._browser.new_context(
            viewport={"width": 1280, "height": 900}, reduced_motion="reduce"
        )
        self._show(self._context.new_page(), self.address)

    def close(self) -> None:
        """Close the window, whatever it is doing."""
        if self._context is not None:
            self._context.close()
            self._context = self._page = None

    def _show(self, page: Page, url: str) -> None:
        self._page = page
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self._tell(f"script error: {error}"))
        page.on("console", self._listen)
        page.goto(url)
        page.wait_for_selector(f"{STATUS}[data-phase]")

    def _listen(self, line: Any) -> None:
        # A stream that the page itself cancelled is reported as aborted.
        foreseen = CUT if self._drops else CUT[:1]
        if line.type == "error" and not any(each in line.text for each in foreseen):
            self._tell(f"console: {line.text}")

    def _tell(self, what: str) -> None:
        self.recorder.report(self.name, "page", what[:300])

    # --- the controls --------------------------------------------------------------------------

    def fill_in(self, own: str = "", tokens: int | None = None) -> Asked:
        """Prompt, sliders and sampling of a new request. own: an adapter that was added."""
        spec = self.dice.world.spec(self.base)
        poles = {pole: group for group in spec.attributes if group.poles for pole in group.poles}
        page, weights = self.page, self.dice.weights(self.dice.world.names(self.base), 2)
        moved: dict[str, float] = {}
        for name in list(weights):
            if name in poles:
                left, _ = poles[name].poles
                key = f"pair-{poles[name].name}"
                if key in moved:
                    del weights[name]
                    continue
                moved[key] = -weights[name] if name == left else weights[name]
            else:
                moved[f"one-{name}"] = weights[name]
        if own:
            weights[own] = moved["spare-0"] = self.dice.random.randint(10, 25) / 20
        witness = next(name for name in self.dice.world.names(self.base) if name not in poles)
        clear_sliders(self.page, f"one-{witness}", longest=PATIENCE)
        asked = Asked(
            self.base,
            self.dice.prompt(),
            {**spec.default_composition.as_dict(), "weights": weights},
            self.dice.sampling(tokens),
            (own,) if own else (),
        )
        page.fill("#prompt textarea", asked.prompt)
        for key, value in moved.items():
            set_slider(page, key, value, PATIENCE)
        if not page.locator("#max-new-tokens input[type=number]").is_visible():
            page.locator("#sampling button").first.click()
        set_slider(page, "max-new-tokens", asked.sampling["max_new_tokens"], PATIENCE)
        seed = page.locator("#seed input")
        seed.fill(str(asked.sampling["seed"]))
        seed.press("Tab")
        read = {name: float(page.input_value(f"#{key} input[type=number]")) for name, key in SAMPLING.items()}
        return replace(asked, sampling={**asked.sampling, **read, "top_k": int(read["top_k"])})

    def paint(self, asked: Asked) -> Asked:
        """Draw a line across the painter of a slider in use. Returns the request with the curve."""
        page = self.page
        name = next((each for each in asked.composition["weights"] if self._visible(each)), None)
        if name is None:
            return asked
        page.click(f"#one-{name} .curve-button")
        box = page.locator(".curve-paint canvas").bounding_box()
        low, high = self.dice.random.uniform(0.5, 0.9), self.dice.random.uniform(0.1, 0.4)
        start, end = (low, high) if self.dice.random.random() < 0.5 else (high, low)
        page.mouse.move(box["x"] + 0.05 * box["width"], box["y"] + start * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + end * box["height"], steps=12)
        page.mouse.up()
        curve = [float(each) for each in page.get_attribute(".curve-paint canvas", "data-curve").split()]
        return replace(asked, composition={**asked.composition, "curves": {name: curve}})

    def _visible(self, name: str) -> bool:
        return self.page.locator(f"#one-{name} .curve-button").is_visible()

    # --- adapters, links, bases ----------------------------------------------------------------

    def add(self, name: str) -> bool:
        """Add an adapter of the Hub. False, and the sentence recorded, where it cannot be had."""
        page = self.page
        self._tab("Adapters")
        page.fill("#add-source input, #add-source textarea", name)
        page.click("#add-button")
        fault = ".finder-message.fault, .report[data-ok=false]"
        page.wait_for_selector(f".finder-add, {fault}")
        if page.locator(".finder-add").count():
            page.click(".finder-add")
            page.wait_for_selector(f".card-own, {fault}")
        if page.locator(".card-own").count() == 1:
            self._tab("Compose")
            expect(page.locator("#spare-0")).to_contain_text(name.rpartition("/")[2], timeout=PATIENCE)
            return True
        said = " ".join(page.locator(fault).all_inner_texts())
        asked, now = Asked(self.base, "", {}, {}, (name,)), monotonic()
        self.recorder.answer(Answer(self.name, "add", asked, "", SENTENCE, now, now, sentence=said))
        self._tab("Compose")
        return False

    def remove(self, name: str) -> None:
        """Take it away again."""
        self._tab("Adapters")
        self.page.get_by_role("button", name=f"Remove {name.rpartition('/')[2]}").click()
        expect(self.page.locator(".card-own")).to_have_count(0, timeout=PATIENCE)
        self._tab("Compose")

    def _tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def open_link(self) -> None:
        """Share the mix, and open its link in another window."""
        self.page.click("#share-open")
        self.page.wait_for_function("document.querySelector('.share-url')?.value.includes('recipe=')")
        link = self.page.input_value(".share-url")
        self._drops = True
        self.page.close()
        self._show(self._context.new_page(), link)
        expect(self.page.locator(STATUS)).to_contain_text("as in the link", timeout=PATIENCE)

    def change_base(self, name: str) -> bool:
        """By the menu. False where it says why not."""
        page = self.page
        self._drops = True
        page.click(".base-open")
        page.click(f".base-option[data-name='{name}']")
        news = page.locator(".base-go:visible, .base-fault:visible")
        while not news.count():
            if self.over():
                return False
            page.wait_for_timeout(500)
        if not page.locator(".base-go").is_visible():
            self._tell(f"base change: {page.inner_text('.base-said')}")
            return False
        page.click(".base-go")
        page.wait_for_url(f"**/base/{name}/**")
        page.wait_for_selector(f"{STATUS}[data-phase]")
        expect(page.locator(STATUS)).to_contain_text("came along", timeout=PATIENCE)
        self.base = name
        return True

    # --- a text --------------------------------------------------------------------------------

    def generate(
        self, action: str, asked: Asked, stop: bool = False, ended: str = STOPPED, window: bool = False
    ) -> None:
        """Press Generate and record what comes. stop: end it after the first words, by Stop or, where `ended`
        is LEFT, by going away: a reload, or with the whole window."""
        page, at = self.page, monotonic()
        page.evaluate(WATCH)
        page.click("#generate")
        page.wait_for_function(f"{WORDS} || {ENDED}")
        first = monotonic()
        if stop and not page.evaluate(ENDED):
            self._leave_or_stop(action, asked, ended, window, (at, first))
            return
        page.wait_for_function(ENDED)
        self._record(action, asked, WHOLE, (at, first))

    def _leave_or_stop(
        self, action: str, asked: Asked, ended: str, window: bool, times: tuple[float, float]
    ) -> None:
        page = self.page
        if ended != LEFT:
            # Nothing, where the text has ended meanwhile and the button with it.
            page.evaluate("document.querySelector('#stop').click()")
            page.wait_for_function(ENDED)
            self._record(action, asked, STOPPED, times)
            return
        text = page.text_content(".live-tokens") or ""
        at, first = times
        self.recorder.answer(Answer(self.name, action, asked, text, LEFT, at, monotonic(), first))
        self._drops = True
        if window:
            self.reopen()
        else:
            page.reload()
            page.wait_for_selector(f"{STATUS}[data-phase]")
            if "recipe=" in page.url:  # a program reaches controls that the page still holds for its link
                expect(page.locator(STATUS)).to_contain_text(FROM_A_LINK, timeout=PATIENCE)

    def _record(self, action: str, asked: Asked, ended: str, times: tuple[float, float]) -> None:
        page, (at, first) = self.page, times
        phase, said = page.get_attribute(STATUS, "data-phase"), page.text_content(STATUS) or ""
        # A text that had its last word before Stop reached it is whole.
        ended = {"error": SENTENCE, "done": WHOLE}.get(phase, ended)
        text = "" if ended == SENTENCE else page.text_content(".live-tokens") or ""
        sentence = said if ended == SENTENCE else ""
        self.recorder.answer(Answer(self.name, action, asked, text, ended, at, monotonic(), first, sentence))
        self._look_for_strangers(action, asked)

    def _look_for_strangers(self, action: str, asked: Asked) -> None:
        """Somebody else's prompt or adapter on this page."""
        if self.page.input_value("#prompt textarea") != asked.prompt:
            self.recorder.report(self.name, action, "another prompt stands on the page", True)
        shown = self.page.text_content(".live-legend") or ""
        for name in self.dice.world.hub:
            if name.rpartition("/")[2] in shown and name not in asked.own:
                self.recorder.report(self.name, action, f"somebody else's {name} stands here", True)


def guarded(hands: Hands, action: str, work: Callable[[Hands], None]) -> None:
    """Do it; what goes wrong is recorded, and a new window opened."""
    try:
        work(hands)
    except (Error, AssertionError) as fault:
        hands.recorder.report(hands.name, action, f"{type(fault).__name__}: {fault}"[:600])
        hands.reopen()
