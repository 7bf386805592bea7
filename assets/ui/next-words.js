// Draws the next words. Strings from outside only become textContent.

function nextPercent(value) {
  return value >= 0.0995 ? `${Math.round(100 * value)}%` : `${(100 * value).toFixed(1)}%`;
}

function nextBar(value, peak, color) {
  const bar = makeNode("i");
  bar.style.width = `${Math.max(1.5, (100 * value) / peak)}%`;
  if (color) bar.style.background = adapterColor(color);
  return bar;
}

function nextRow(word, peak) {
  const row = makeNode("li", word.drawn ? "next-drawn" : "");
  const bars = makeNode("span", "next-bars");
  bars.append(nextBar(word.composed, peak, word.color), nextBar(word.base, peak));
  const pushes = word.pushes.map((push) => `${push.label} ${signed(push.nats, 2)}`);
  const said = `${word.text}: base ${nextPercent(word.base)}, mix ${nextPercent(word.composed)}`;
  row.title = pushes.length ? `${said}. Alone, in nats: ${pushes.join(", ")}` : said;
  row.append(makeNode("span", "next-word", word.text), bars, makeNode("span", "next-number", nextPercent(word.composed)));
  row.append(makeNode("span", "next-said", row.title));
  return row;
}

let nextPinned = null; // the words that a pinned token was drawn from take the panel's place

function nextShow() {
  const value = nextPinned ?? props.value ?? { words: [], message: "" };
  const peak = Math.max(...value.words.map((word) => Math.max(word.base, word.composed)), 1e-6);
  element.querySelector(".next-title").textContent = value.title || "Next word";
  element.querySelector(".next-list").replaceChildren(...value.words.map((word) => nextRow(word, peak)));
  element.querySelector(".next-message").textContent = value.message;
  element.querySelector(".next-key").hidden = value.words.length === 0;
}

document.addEventListener("composer:pin", (event) => {
  if (!element.isConnected) return;
  nextPinned = event.detail;
  nextShow();
});
new MutationObserver(nextShow).observe(document.body, { attributeFilter: ["class"] });
nextShow();
watch("value", () => {
  if (props.value?.keep) {
    element.querySelector(".next-message").textContent = props.value.message;
    trigger("edit"); // asks for the rest
    return; // the words stay until others come
  }
  nextPinned = null; // news of the mix
  nextShow();
});
