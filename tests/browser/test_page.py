"""The page as a visitor meets it: real Chromium, real server, real model."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from benchmarks.hands import set_slider
from tests.browser.hands import WRITING

WATCH_TEXT = """() => {
  const tokens = document.querySelector(".live-tokens");
  window.seen = [];
  new MutationObserver(() => window.seen.push(tokens.textContent)).observe(tokens, {childList: true});
}"""
PIXELS = """(canvas) => {
  const ratio = window.devicePixelRatio, map = canvas.getContext("2d");
  const at = (x, y) =>
    Array.from(map.getImageData(Math.round(x * ratio), Math.round(y * ratio), 1, 1).data).join();
  const left = 34, step = Math.min((canvas.clientWidth - 38) / Math.max(ROOM, 1), 18);
  const colors = [];
  for (let y = 6; y < canvas.clientHeight - 20; y += 3) colors.push(at(left + step / 2, y));
  return {drawn: new Set(colors).size, ground: at(canvas.clientWidth - 6, 20)};
}"""
COUNT_COPIES = """() => {
  const copy = window.structuredClone;
  window.copies = 0;
  window.structuredClone = (...all) => { window.copies += 1; return copy(...all); };
}"""
COPIES_AND_TOKENS = "[window.copies, document.querySelector('#live canvas').composer.count]"
TRACES = "(plot) => plot.calcdata.map((trace) => ({type: trace[0].trace.type, points: trace.length}))"


def set_tokens(page, number):
    page.locator("#sampling button").first.click()
    set_slider(page, "max-new-tokens", number)


def generate(page, phase="done"):
    page.click("#generate")
    page.wait_for_selector(f".live-status[data-phase={phase}]")


def data(page, what):
    return page.eval_on_selector(
        "#live canvas", f"(canvas) => {{ const d = canvas.composer; return {what}; }}"
    )


def test_type_move_sliders_generate_and_watch(visit, catalog):
    page = visit()
    page.fill("#prompt textarea", "The match last night")
    set_slider(page, "pair-sentiment", 1.5)
    set_slider(page, "one-sports", 1)
    set_tokens(page, 12)
    page.evaluate(WATCH_TEXT)
    generate(page)

    seen = [text for text in page.evaluate("window.seen") if text]
    assert len(set(seen)) >= 3, "the text came at once instead of growing"
    assert [len(text) for text in seen] == sorted(len(text) for text in seen)
    assert page.inner_text(".live-prompt") == "The match last night"
    assert page.text_content(".live-tokens") == data(page, "d.chars.join('')") == seen[-1]

    count, layers = data(page, "d.count"), data(page, "d.layers")
    assert 1 <= count <= 12
    assert data(page, "d.columns.filter(Boolean).length") == count
    assert page.get_attribute("#live canvas", "data-columns") == str(count)
    active = data(page, "d.active().map((k) => d.adapters[k].name)")
    opposites = {name for group in catalog.base().attributes for name in group.members}
    assert set(active) == opposites, "the page opens with contrast, in which opposites take part"
    pixels = page.eval_on_selector("#live canvas", PIXELS.replace("ROOM", "12"))
    assert pixels["drawn"] >= 5, "the first column of the map has no colours"

    status = page.inner_text(".live-status")
    for words in (f"{count} tokens", "tokens/s", "first token after", f"seed {catalog.examples[0].seed}"):
        assert words in status

    page.wait_for_selector("#fusion .js-plotly-plot .scatterlayer")
    page.wait_for_selector("#contribution .js-plotly-plot .scatterlayer .trace")
    fusion = page.eval_on_selector("#fusion .js-plotly-plot", TRACES)
    assert fusion == [{"type": kind, "points": layers} for kind in ("bar", "bar", "scatter", "scatter")]
    contribution = page.eval_on_selector("#contribution .js-plotly-plot", TRACES)
    assert contribution == [{"type": "scatter", "points": layers}] * len(opposites)


def test_a_message_costs_the_browser_few_copies(visit):
    """Gradio copies the values of each component that it tells how far a text is: 2,100 a message if all."""
    page = visit()
    set_tokens(page, 40)
    page.evaluate(COUNT_COPIES)
    page.click("#generate")
    page.wait_for_function(WRITING)
    before = page.evaluate(COPIES_AND_TOKENS)
    page.wait_for_function("document.querySelector('#live canvas').composer.count >= 20")
    after = page.evaluate(COPIES_AND_TOKENS)
    copies, tokens = (now - then for now, then in zip(after, before, strict=True))
    assert 0 < copies < 1000 * tokens


def test_weights_at_0_are_the_base_alone(visit):
    page = visit()
    page.fill("#prompt textarea", "The movie")
    page.click("#zero")
    set_tokens(page, 3)
    generate(page)
    assert data(page, "d.active()") == []
    pixels = page.eval_on_selector("#live canvas", PIXELS.replace("ROOM", "3"))
    assert pixels["drawn"] == 1, "something is drawn though no adapter took part"
    expect(page.locator("#contribution")).to_contain_text("base wrote alone")


def test_stop_ends_early_and_shows_what_there_is(visit):
    page = visit()
    page.fill("#prompt textarea", "The government announced")
    page.click("#zero")
    set_slider(page, "one-world", 1)
    set_tokens(page, 600)
    page.click("#generate")
    page.wait_for_function(WRITING)
    page.click("#stop")
    page.wait_for_selector(".live-status[data-phase=stopped]")
    count = data(page, "d.count")
    assert 2 <= count < 600
    assert data(page, "d.columns.filter(Boolean).length") == count
    page.wait_for_selector("#contribution .js-plotly-plot .scatterlayer .trace")
    expect(page.locator("#stop")).to_be_disabled()

    field = page.locator("#max-new-tokens input[type=number]")
    field.fill("2")
    field.press("Tab")
    generate(page)
    assert data(page, "d.count") <= 2, "the generation before was not over"


def test_ctrl_enter_generates(visit):
    page = visit()
    set_tokens(page, 2)
    page.fill("#prompt textarea", "The movie")
    page.press("#prompt textarea", "Control+Enter")
    page.wait_for_selector(".live-status[data-phase=done]")


@pytest.mark.parametrize("method", ["sum", "contrast", "kl"])
def test_an_example_loads_prompt_weights_method_and_its_dials(visit, catalog, method):
    index, example = next((i, each) for i, each in enumerate(catalog.examples) if each.method == method)
    page = visit()
    page.locator("#examples button").nth(index).click()
    expect(page.locator("#prompt textarea")).to_have_value(example.prompt)
    expect(page.locator(".live-status")).to_have_text(example.note)
    both = {"positive", "negative"} <= set(example.weights)
    for name, weight in example.weights.items():
        paired = name in ("positive", "negative") and not both
        slot = "pair-sentiment" if paired else f"one-{name}"
        value = -weight if paired and name == "negative" else weight
        expect(page.locator(f"#{slot} input[type=number]")).to_have_value(f"{value:g}")
    parameters = {"sum": (), "contrast": ("contrast",), "kl": ("blend", "scale", "more")}[method]
    for dial in ("contrast", "blend", "scale", "more"):
        expect(page.locator(f"#{dial}")).to_be_visible(visible=dial in parameters)


def test_an_example_puts_back_what_its_note_relies_on(visit, catalog):
    index = next(i for i, each in enumerate(catalog.examples) if each.method == "contrast")
    page = visit()
    page.get_by_text("Strength and layers").click()
    for dial, value in (("contrast", 1), ("strength", 2), ("band-late", 0.5)):
        set_slider(page, dial, value)
    page.locator("#examples button").nth(index).click()
    for dial, value in (("contrast", "0.5"), ("strength", "1"), ("band-late", "1")):
        expect(page.locator(f"#{dial} input[type=number]")).to_have_value(value)


def test_the_switch_carries_the_two_way_slider_over_and_back(visit):
    page = visit()
    set_slider(page, "pair-sentiment", -1.5)
    page.click("#every input")
    expect(page.locator("#one-negative input[type=number]")).to_have_value("1.5")
    expect(page.locator("#one-positive input[type=number]")).to_have_value("0")
    expect(page.locator("#pair-sentiment")).to_be_hidden()
    set_slider(page, "one-negative", 0.5)
    page.click("#every input")
    expect(page.locator("#pair-sentiment input[type=number]")).to_have_value("-0.5")
    expect(page.locator("#one-negative")).to_be_hidden()


def test_what_a_visitor_writes_stays_text(visit):
    attack = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>${window.hacked=1}{{7*7}}'
    page = visit()
    page.fill("#prompt textarea", attack)
    set_tokens(page, 2)
    generate(page)
    assert page.text_content(".live-prompt") == attack
    assert page.evaluate("window.hacked") is None
    assert page.locator("#live img, #live script").count() == 0


def test_an_empty_prompt_gets_a_sentence_and_leaves_the_picture(visit):
    page = visit()
    page.fill("#prompt textarea", "The movie")
    set_tokens(page, 2)
    generate(page)
    count = data(page, "d.count")
    page.fill("#prompt textarea", " ")
    generate(page, phase="error")
    expect(page.locator(".live-status")).to_contain_text("prompt is empty")
    assert data(page, "d.count") == count


def test_pointing_at_a_cell_shows_its_numbers(visit):
    page = visit()
    page.fill("#prompt textarea", "The match last night")
    set_slider(page, "one-sports", 1)
    set_tokens(page, 3)
    generate(page)
    canvas = page.locator("#live canvas")
    canvas.hover(position={"x": 40, "y": 60})
    tip = page.locator(".live-tip")
    expect(tip).to_contain_text("token 1, layer")
    expect(tip).to_contain_text("Sports")
    canvas.focus()
    canvas.press("ArrowRight")
    expect(page.locator(".live-tip, .live-status").first).to_be_visible()
    page.click(".live-modes [data-mode=lanes]")
    assert canvas.get_attribute("data-mode") == "lanes"


def test_the_first_screen_has_everything(visit):
    page = visit(1280, 800)
    for part in ("#prompt", "#pair-sentiment", "#generate", ".live-text", "#live canvas"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0, part
        assert box["y"] + box["height"] <= 800, part


LUMINANCE = """(selector) => {
  const rgb = getComputedStyle(document.querySelector(selector)).color.match(/[\\d.]+/g).map(Number);
  return (0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]) / 255;
}"""


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_dark_and_light_are_readable_and_nothing_sticks_out(visit, width, height, tmp_path):
    grounds = {}
    for theme in ("light", "dark"):
        page = visit(width, height, theme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        grounds[theme] = page.eval_on_selector(
            "#live canvas", "(canvas) => getComputedStyle(canvas).getPropertyValue('--live-ground').trim()"
        )
        ink = page.evaluate(LUMINANCE, ".live-text")
        assert ink > 0.6 if theme == "dark" else ink < 0.4
        page.screenshot(path=tmp_path / f"{theme}.png")
    light, dark = (int(grounds[theme][1:3], 16) for theme in ("light", "dark"))
    assert light > 200 > 60 > dark, "the map's ground does not follow the theme"


def test_a_slider_s_release_shows_the_next_words(visit):
    page = visit()
    page.fill("#prompt textarea", "The match last night")
    set_slider(page, "one-sports", 1.25)
    page.locator("#one-sports input[type=range]").dispatch_event("pointerup")
    page.wait_for_selector("#next .next-list li", timeout=60_000)
    assert page.locator("#next .next-list li").count() == 10
    expect(page.locator("#next .next-message")).to_contain_text("nats")
    assert "Sports" in page.locator("#next .next-list li").first.get_attribute("title")


def test_unused_sliders_fold_away_and_come_back(visit):
    page = visit()
    more = page.locator("#more-adapters")
    expect(more).to_have_text("+ 8 more adapters")
    assert not page.locator("#one-formal").is_visible()
    more.click()
    expect(page.locator("#one-formal")).to_be_visible()
    set_slider(page, "one-formal", 1)
    more.click()
    expect(page.locator("#one-formal")).to_be_visible()  # in use
    assert not page.locator("#one-simple").is_visible()


def test_a_word_has_its_tint_in_one_piece(visit):
    page = visit(opened=True)
    page.wait_for_selector(".live-status[data-phase=recorded]")
    pieces = page.locator(".live-token").evaluate_all(
        "(all) => all.map((token) => [token.textContent, token.getClientRects().length])"
    )
    assert {count for _, count in pieces} == {1}, [word for word, count in pieces if count > 1]
    assert page.text_content(".live-tokens") == data(page, "d.chars.join('')")
