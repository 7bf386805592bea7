"""A newcomer's way through the page: the recording, a preset, a word, a curve, a comparison, a link."""

from __future__ import annotations

import base64
import json

import pytest
from playwright.sync_api import TimeoutError as NotInTime
from playwright.sync_api import expect

from benchmarks.hands import set_slider
from tests.browser.hands import WRITING, findings

ATTACK = "<img src=x onerror='window.hacked=1'>${window.hacked=1}{{7*7}}"


def phase(page, *names):
    page.wait_for_function(
        f"{list(names)}.includes(document.querySelector('.live-status').dataset.phase)", timeout=60_000
    )


def few_tokens(page, number=8):
    page.locator("#sampling button").first.click()
    set_slider(page, "max-new-tokens", number)
    page.locator("#sampling button").first.click()


def begin_a_text(page):
    """Generate, up to the first words."""
    page.fill("#prompt textarea", "The government announced")
    set_slider(page, "one-world", 1)
    page.click("#generate")
    page.wait_for_function(WRITING)


def negative_of(preset, catalog) -> str:
    """The weight of negative in a preset, as its slider says it."""
    [weights] = [example.weights for example in catalog.examples if example.label == preset]
    return f"{weights['negative']:g}"


def paint(page, slider, start, end):
    """Open a slider's painter and draw a line from (x, y) to (x, y), shares of the canvas."""
    page.click(f"#{slider} .curve-button")
    box = page.locator(".curve-paint canvas").bounding_box()
    page.mouse.move(box["x"] + start[0] * box["width"], box["y"] + start[1] * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + end[0] * box["width"], box["y"] + end[1] * box["height"], steps=24)
    page.mouse.up()


def test_the_whole_way(visit, catalog):
    page = visit(opened=True)
    # Something moves within a second, before anything was asked for.
    phase(page, "playing")
    page.wait_for_function("document.querySelectorAll('.live-token').length >= 3", timeout=5_000)
    expect(page.locator(".live-badge")).to_have_text(f"Recorded, seed {catalog.examples[0].seed}")
    expect(page.locator("#prompt textarea")).to_have_value("The match last night")
    expect(page.locator("#one-sports input[type=number]")).to_have_value("1.25")
    phase(page, "recorded")
    assert page.locator("#next .next-list li").count() == 10
    recorded = page.text_content(".live-tokens")

    # Generate repeats the recorded run, up to a near tie on another processor.
    page.click("#generate")
    phase(page, "done")
    assert page.text_content(".live-tokens")[:12] == recorded[:12]
    expect(page.locator(".live-badge")).to_be_hidden()

    # A preset plays its own recording, with its controls.
    page.locator("#examples button", has_text="Tug of war").click()
    phase(page, "recorded")
    expect(page.locator("#one-negative input[type=number]")).to_have_value(negative_of("Tug of war", catalog))
    assert page.text_content(".live-tokens") != recorded
    page.locator("#examples button", has_text="A mood and a topic").click()
    expect(page.locator(".live-tokens")).to_have_text(recorded, timeout=20_000)
    phase(page, "recorded")

    # A pinned word explains itself, and shows the words that it was drawn from.
    word = page.locator(".live-token").nth(2)
    word.click()
    expect(page.locator(".live-why")).to_contain_text("nats")
    expect(page.locator(".live-why")).to_contain_text("for the base")
    expect(page.locator("#next .next-title")).to_have_text("Token 3 was drawn from")
    expect(page.locator("#next .next-drawn")).to_have_count(1)
    for colors in ("loudness", "surprise", "push"):
        page.click(f"[data-colors={colors}]")
        expect(page.locator(f"[data-colors={colors}]")).to_have_attribute("aria-pressed", "true")
    word.click()
    expect(page.locator("#next .next-title")).to_have_text("Next word after the prompt")

    # A painted curve changes the next words at once.
    before = page.inner_text("#next .next-message")
    paint(page, "one-sports", (0.02, 0.95), (0.98, 0.1))
    expect(page.locator("#next .next-message")).not_to_have_text(before, timeout=20_000)
    curve = [float(each) for each in page.get_attribute(".curve-paint canvas", "data-curve").split()]
    assert curve == sorted(curve) and curve[0] < 0.3 and curve[-1] > 1.5
    few_tokens(page)
    page.click("#generate")
    phase(page, "done")
    early, late = (
        page.evaluate(
            "(layer) => { const d = document.querySelector('#live canvas').composer;"
            " const k = d.adapters.findIndex((each) => each.name === 'sports');"
            " return d.columns.reduce((sum, _, t) => sum + d.value(t, layer, k), 0); }",
            layer,
        )
        for layer in (1, 20)
    )
    assert late > 3 * early, "the curve cannot be seen in the map"

    # Step by step, and back.
    count = page.evaluate("document.querySelector('#live canvas').composer.count")
    page.click("#step")
    phase(page, "paused")
    page.wait_for_function(f"document.querySelector('#live canvas').composer.count === {count + 1}")
    page.click("#back")
    page.wait_for_function(f"document.querySelector('#live canvas').composer.count === {count}")

    # Side by side.
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#compare-prompt textarea")).to_have_value("The match last night")
    page.click("#compare-go")
    page.wait_for_selector(".compare-files:not([hidden])", timeout=90_000)
    heads = page.locator(".compare-title").all_inner_texts()
    assert heads[:3] == ["Base", "Positive alone", "Sports alone"] and len(heads) == 6
    for label in ("Sentiment", "Topic", "Perplexity", "Distinct-2", "Tokens/s"):
        assert page.locator(".compare-column dt", has_text=label).count() == 6
    assert page.locator(".compare-top").count() >= 2
    with page.expect_download() as saved:
        page.click("[data-file=md]")
    assert "The match last night" in saved.value.path().read_text("utf-8")

    # A link restores everything in another browser.
    page.click("#share-open")
    page.wait_for_function("document.querySelector('.share-url')?.value.includes('recipe=')")
    link = page.input_value(".share-url")
    other = visit(opened=True, query="&" + link.partition("?")[2])
    expect(other.locator(".live-status")).to_contain_text("as in the link", timeout=20_000)
    expect(other.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true")
    other.get_by_role("tab", name="Compose").click()
    expect(other.locator("#one-sports input[type=number]")).to_have_value("1.25")
    other.click("#one-sports .curve-button")
    assert [float(x) for x in other.get_attribute(".curve-paint canvas", "data-curve").split()] == curve

    # All to 0 takes the curve away too.
    other.keyboard.press("Escape")
    other.click("#zero")
    expect(other.locator("#one-sports input[type=number]")).to_have_value("0")
    other.click("#one-sports .curve-button")
    flat = " ".join(["1"] * len(curve))
    expect(other.locator(".curve-paint canvas")).to_have_attribute("data-curve", flat)

    # A column goes back into Compose.
    page.click("#share-close")
    page.locator(".compare-use").nth(2).click()
    expect(page.get_by_role("tab", name="Compose")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#pair-sentiment input[type=number]")).to_have_value("0")
    expect(page.locator("#one-sports input[type=number]")).to_have_value("1.25")


def encoded(document) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "recipe",
    [
        "x",
        "A" * 7000,
        encoded({"version": 1, "prompt": ATTACK, "composition": {"weights": {ATTACK: 1}}}),
        encoded({"version": 99}),
        encoded({"version": 1, "composition": {"curves": {"sports": [[1]]}}}),
        encoded(json.loads("[" * 200 + "]" * 200)),
    ],
    ids=["letters", "long", "markup", "old", "nested", "deep"],
)
def test_a_hostile_link_opens_the_page_as_usual_with_a_sentence(visit, recipe):
    page = visit(opened=True, query=f"&recipe={recipe}")
    phase(page, "error", "playing", "recorded")
    expect(page.locator(".live-status")).to_contain_text(".", timeout=20_000)
    page.wait_for_function("document.querySelector('.live-status').dataset.phase === 'error'", timeout=20_000)
    expect(page.locator("#prompt textarea")).to_have_value("The match last night")
    assert page.evaluate("window.hacked") is None
    page.click("#generate")
    phase(page, "done")


def test_nothing_can_be_moved_before_a_link_has_been_read(visit):
    base = {"id": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    recipe = {"version": 1, "base": base, "prompt": "The lake", "composition": {"weights": {"sports": 1.25}}}
    held = []
    page = visit(opened=True, query=f"&recipe={encoded(recipe)}", hold=held)
    slider = page.locator("#one-sports input[type=number]")
    slider.wait_for()
    page.wait_for_function("document.querySelector('#tabs').inert")
    with pytest.raises(NotInTime):
        page.click("#zero", timeout=500)
    page.unroute("**/queue/join*")  # which lets those go on that are held
    assert held
    expect(page.locator(".live-status")).to_contain_text("as in the link", timeout=20_000)
    expect(slider).to_have_value("1.25")
    page.click("#zero", timeout=5000)  # not only when opening.js gives up
    expect(slider).to_have_value("0")


def test_hostile_text_in_every_field_stays_text(visit):
    page = visit()
    page.fill("#prompt textarea", ATTACK)
    few_tokens(page, 3)
    page.click("#generate")
    phase(page, "done")
    assert page.text_content(".live-prompt") == ATTACK
    page.click("#share-open")
    page.fill(
        "#share-recipe textarea", f'version: 1\nprompt: "{ATTACK}"\ncomposition: {{weights: {{x: [1]}}}}'
    )
    page.click("#share-load")
    expect(page.locator("#share-message")).to_contain_text("must be")
    page.fill("#share-recipe textarea", f"version: 1\n{ATTACK}")
    page.click("#share-load")
    expect(page.locator("#share-message")).to_contain_text("recipe")
    page.click("#share-close")
    set_slider(page, "one-sports", 1)
    page.get_by_role("tab", name="Compare").click()
    page.fill("#compare-prompt textarea", ATTACK)
    page.click("#compare-go")
    page.wait_for_selector(".compare-files:not([hidden])", timeout=90_000)
    assert page.text_content(".compare-text >> nth=0").startswith(ATTACK)
    page.get_by_role("tab", name="Adapters").click()
    page.fill("#add-source textarea", ATTACK)
    page.click("#add-button")
    expect(page.locator(".finder-message.fault")).to_contain_text("Hub")
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img[src=x], main script").count() == 0


def test_escape_stops_and_the_keyboard_does_everything(visit):
    page = visit()
    page.locator("#prompt textarea").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("The match")
    slider = page.locator("#one-sports input[type=range]")
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#one-sports input[type=number]")).to_have_value("1")
    page.keyboard.press("Control+Enter")
    page.wait_for_function(WRITING)
    page.keyboard.press("Escape")
    phase(page, "stopped")
    few_tokens(page, 6)
    page.keyboard.press("Control+Enter")
    phase(page, "done")
    page.locator(".live-text").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#next .next-title")).to_have_text("Token 2 was drawn from")
    page.locator("#one-sports .curve-button").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".curve-anchors input").first).to_be_focused()
    for _ in range(20):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    assert page.get_attribute(".curve-paint canvas", "data-curve").startswith("0 1 1")


def test_a_connection_that_drops_leaves_the_text_and_another_try_works(visit):
    page = visit(drops=True)
    begin_a_text(page)
    page.context.set_offline(True)
    written = page.text_content(".live-tokens")
    page.context.set_offline(False)
    assert written
    page.reload()
    page.wait_for_selector(".live-status[data-phase=recorded]")
    page.click("#zero")
    few_tokens(page, 3)
    page.fill("#prompt textarea", "The movie")
    page.click("#generate")
    phase(page, "done")
    assert page.text_content(".live-prompt") == "The movie"


def test_two_visitors_never_see_each_others_weights(visit):
    one, other = visit(), visit()
    set_slider(one, "one-sports", 1.5)
    set_slider(other, "one-world", -0.5)
    for page in (one, other):
        page.click("#share-open")
        page.wait_for_function("document.querySelector('#share-recipe textarea')?.value.includes('version')")
    mine, theirs = (page.input_value("#share-recipe textarea") for page in (one, other))
    assert "sports: 1.5" in mine and "world" not in mine
    assert "world: -0.5" in theirs and "sports" not in theirs


def test_a_preset_ends_a_text_that_is_being_written(visit, catalog):
    page = visit()
    begin_a_text(page)
    page.locator("#examples button", has_text="One mood").click()
    phase(page, "recorded")
    expect(page.locator(".live-prompt")).to_have_text("The movie")
    expect(page.locator("#stop")).to_be_disabled()
    page.locator("#examples button", has_text="Tug of war").click()
    expect(page.locator("#one-negative input[type=number]")).to_have_value(negative_of("Tug of war", catalog))
    assert page.text_content(".live-prompt") == "The movie", "the text that was ended comes back"


def test_step_goes_on_from_a_text_that_is_being_written(visit):
    page = visit()
    begin_a_text(page)
    written = page.text_content(".live-tokens")
    page.click("#step")
    phase(page, "paused")
    assert page.text_content(".live-tokens").startswith(written)
    count = page.evaluate("document.querySelector('#live canvas').composer.count")
    page.click("#step")
    page.wait_for_function(f"document.querySelector('#live canvas').composer.count === {count + 1}")


def test_next_words_that_take_long_say_so_and_then_come(visit):
    page = visit()
    set_slider(page, "one-sports", 1)
    page.evaluate(
        "() => { window.said = []; const line = document.querySelector('.next-message');"
        " new MutationObserver(() => window.said.push(line.textContent)).observe(line, {childList: true}); }"
    )
    page.fill("#prompt textarea", "The match last night was long. " * 100)
    page.press("#prompt textarea", "Tab")
    page.wait_for_function("window.said.some((each) => each.includes('come first'))", timeout=20_000)
    page.wait_for_function("window.said.at(-1).includes('nats')", timeout=60_000)
    assert page.locator("#next .next-list li").count() == 10


def test_a_filter_finds_an_adapter_among_many(visit):
    page = visit()
    page.click("#more-adapters")
    page.fill("#filter-adapters", "poet")
    expect(page.locator("#one-poetic")).to_be_visible()
    expect(page.locator("#one-formal")).to_be_hidden()
    page.fill("#filter-adapters", "")
    expect(page.locator("#one-formal")).to_be_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_axe_has_no_serious_findings_and_nothing_sticks_out(visit, theme, width, height, tmp_path):
    page = visit(width, height, theme, opened=True)
    phase(page, "recorded")
    page.locator(".live-token").nth(2).click()
    page.click("#one-sports .curve-button")
    found = findings(page)
    page.screenshot(path=tmp_path / f"compose-{theme}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("tab", name="Compare").click()
    page.click("#compare-go")
    page.wait_for_selector(".compare-files:not([hidden])", timeout=120_000)
    found += findings(page)
    page.screenshot(path=tmp_path / f"compare-{theme}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("#share-open")
    page.wait_for_function("document.querySelector('.share-url')?.value.includes('recipe=')")
    found += findings(page)
    assert not found, "\n".join(found)
