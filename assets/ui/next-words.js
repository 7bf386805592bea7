// Draws the next words. Strings from outside only become textContent.

function nextPercent(value) {
  return value >= 0.0995 ? `${Math.round(100 * value)}%` : `${(100 * value).toFixed(1)}%`;
}

function nextBar(value, peak, color) {
  const bar = makeNode("i");
  bar.style.width = `${Math.max(1.5, (100 * value) / peak)}%`;
  if (color) bar.style.background = color;
  return bar;
}

function nextRow(word, peak) {
  const row = makeNode("li");
  const bars = makeNode("span", "next-bars");
  bars.append(nextBar(word.composed, peak, word.color), nextBar(word.base, peak));
  const pushes = word.pushes.map((push) => `${push.label} ${push.nats >= 0 ? "+" : "−"}${Math.abs(push.nats).toFixed(2)}`);
  const said = `${word.text}: base ${nextPercent(word.base)}, mix ${nextPercent(word.composed)}`;
  row.title = pushes.length ? `${said}. Alone, in nats: ${pushes.join(", ")}` : said;
  row.append(makeNode("span", "next-word", word.text), bars, makeNode("span", "next-number", nextPercent(word.composed)));
  row.append(makeNode("span", "next-said", row.title));
  return row;
}

function nextShow() {
  const value = props.value || { words: [], message: "" };
  const peak = Math.max(...value.words.map((word) => Math.max(word.base, word.composed)), 1e-6);
  element.querySelector(".next-list").replaceChildren(...value.words.map((word) => nextRow(word, peak)));
  element.querySelector(".next-message").textContent = value.message;
  element.querySelector(".next-key").hidden = value.words.length === 0;
}

nextShow();
watch("value", nextShow);
