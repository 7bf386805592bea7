// Wires the live view: text, status, meters, legend, map and tip. Strings from outside only become textContent.

const live = {
  root: element.querySelector(".live"),
  data: new LiveData(),
  find: (name) => element.querySelector(`.live-${name}`),
  pinned: null, // a token's index
  hovered: null,
  player: null, // the timer of a recording, and what shows its next token or all of them
  show: null,
  finish: null,
  later: 0, // the timer of a drawing that was put off
  took: 0, // milliseconds that the last one took
  ended: 0, // when it ended
  replaced: new Set(), // runs whose place another has taken: what is still on its way of them is too late
};
const liveCanvas = live.root.querySelector("canvas");
live.map = new LiveMap(liveCanvas, live.data);
live.words = new LiveWords(live.data);
liveCanvas.composer = live.data; // what is drawn, for tests and for the curious

function liveShowText() {
  const { data, words } = live;
  live.find("prompt").textContent = data.prompt;
  live.find("hint").hidden = Boolean(data.run);
  live.find("caret").hidden = !["reading", "writing"].includes(data.status.phase);
  const used = data.used();
  const sums = data.columns.map((column) => used.reduce((sum, k) => sum + column.means[k], 0));
  const peak = sums.reduce((a, b) => Math.max(a, b), 0); // skips columns not here yet, where spread would not
  const nodes = [];
  data.pieces().forEach((piece, t) => {
    // The space before a word has no tint: where a line ends with it, the tint would stand there alone.
    const word = piece.trimStart() || piece;
    if (word !== piece) nodes.push(piece.slice(0, piece.length - word.length));
    const span = makeNode("span", "live-token", word);
    const tint = words.tint(t, peak);
    if (tint) span.style.setProperty("--tint", `color-mix(in srgb, ${adapterColor(tint[0])} ${(100 * tint[1]).toFixed(1)}%, transparent)`);
    span.classList.toggle("live-pinned", t === live.pinned);
    span.dataset.token = t;
    nodes.push(span);
  });
  live.find("tokens").replaceChildren(...nodes);
  for (const button of live.find("colors").children) button.setAttribute("aria-pressed", String(button.dataset.colors === words.mode));
}

function liveShowStatus() {
  const status = live.data.status;
  const parts = [];
  if (status.message) parts.push(status.message);
  if (status.tokens) parts.push(`${status.tokens} tokens`);
  if (status.per_second) parts.push(`${status.per_second.toFixed(1)} tokens/s`);
  if (status.first_ms) parts.push(`first token after ${Math.round(status.first_ms)} ms`);
  if (status.seed !== null && status.seed !== undefined) parts.push(`seed ${status.seed}`);
  const line = live.find("status");
  line.dataset.phase = status.phase;
  line.textContent = parts.join(" · ");
}

function liveShowMeters() {
  const items = live.data.meters.map((meter) => {
    const item = makeNode("li", "live-meter");
    const bar = makeNode("i");
    const fill = makeNode("i");
    fill.style.width = `${100 * meter.share}%`;
    fill.style.background = adapterColor(meter.color);
    bar.append(fill);
    item.append(makeNode("span", "", meter.label), bar, makeNode("b", "", `${Math.round(100 * meter.share)}%`));
    item.title = meter.hint;
    return item;
  });
  live.find("meters").replaceChildren(...items);
}

function liveShowLegend() {
  const used = live.data.used();
  const others = live.data.active().filter((k) => !used.includes(k));
  const items = used.map((k) => {
    const item = makeNode("li");
    item.append(makeChip(live.data.adapters[k].color), live.data.adapters[k].label);
    return item;
  });
  if (others.length) {
    const names = others.map((k) => live.data.adapters[k].label).join(", ");
    items.push(makeNode("li", "live-soft", `minus opposites (${names})`));
  }
  const peak = Number(liveCanvas.dataset.peak);
  live.find("legend").replaceChildren(...items);
  live.find("scale").textContent = peak > 0 ? `The brightest cell is ${livePercent(peak)} of the base's own output.` : "";
}

function liveDescribe() {
  const { data } = live;
  const names = data.active().map((k) => data.adapters[k].label).join(", ") || "no adapter";
  return data.columns.length
    ? `Contribution map: ${data.columns.length} tokens by ${data.layers} layers; moved by ${names}`
    : "Contribution map, empty";
}

function liveShowTip() {
  const tip = live.find("tip");
  const { cursor } = live.map;
  const { data } = live;
  tip.hidden = !cursor || cursor.layer === null || !data.columns[cursor.token];
  const here = cursor && data.columns[cursor.token] ? cursor.token : null;
  for (const span of live.find("tokens").children) {
    span.classList.toggle("live-here", Number(span.dataset.token) === here);
  }
  if (tip.hidden) return;
  const word = data.pieces()[cursor.token];
  const head = makeNode("div", "live-tip-head", `“${word.trim() || word.replace(/\n/g, "⏎")}”`);
  head.append(makeNode("span", "", `token ${cursor.token + 1}, layer ${cursor.layer + 1}`));
  const rows = data.adapters
    .map((adapter, k) => ({ adapter, value: data.value(cursor.token, cursor.layer, k) }))
    .filter((row) => row.value > 0)
    .sort((a, b) => b.value - a.value)
    .map(({ adapter, value }) => {
      const row = makeNode("div", "live-tip-row");
      row.append(makeChip(adapter.color), makeNode("span", "", adapter.label), makeNode("b", "", livePercent(value)));
      return row;
    });
  tip.replaceChildren(head, ...(rows.length ? rows : [makeNode("div", "", "the base alone")]));
  const center = live.map.center(cursor.token);
  const width = liveCanvas.clientWidth;
  tip.style.left = `${Math.min(Math.max(center - tip.offsetWidth / 2, 0), width - tip.offsetWidth)}px`;
}

// The line under the text: of the token that is pointed at, else of the pinned one.
function liveShowWhy() {
  const t = live.hovered ?? live.pinned;
  const known = t !== null && live.data.columns[t];
  const over = live.data.status.phase === "done" && live.data.columns.length > 0;
  const unread = over ? "Who pushed is not known here: the weights changed while this text was written." : "";
  const hint = live.data.reading ? "Point at a word to see who pushed it; click to pin it." : unread;
  live.find("why").replaceChildren(...(known ? live.words.explain(t) : [makeNode("span", "live-soft", hint)]));
}

function livePin(t) {
  live.pinned = t === live.pinned || !live.data.columns[t] ? null : t;
  live.map.pinned = live.pinned;
  for (const span of live.find("tokens").children) {
    span.classList.toggle("live-pinned", Number(span.dataset.token) === live.pinned);
  }
  const words = live.pinned === null ? null : live.words.drawnFrom(live.pinned);
  document.dispatchEvent(new CustomEvent("composer:pin", { detail: words }));
  live.map.draw();
  liveShowWhy();
}

function liveHover(t) {
  live.hovered = t;
  live.map.cursor = t === null ? null : { token: t, layer: null, lane: 0 };
  live.map.draw();
  liveShowTip();
  liveShowWhy();
}

function liveRefresh() {
  liveShowText();
  live.map.draw();
  liveShowStatus();
  liveShowMeters();
  liveShowLegend();
  liveShowTip();
  liveShowWhy();
  liveCanvas.setAttribute("aria-label", liveDescribe());
}

// A long text is drawn so often that the page has most of its time for the rest; the next drawing has all that came.
function liveRefreshInTurn() {
  if (live.later) return;
  const rest = 3 * live.took - (performance.now() - live.ended);
  if (rest > 0) live.later = setTimeout(liveRefreshNow, rest);
  else liveRefreshNow();
}

function liveRefreshNow() {
  clearTimeout(live.later);
  live.later = 0;
  const began = performance.now();
  liveRefresh();
  live.root.getBoundingClientRect(); // the layout is most of it
  live.ended = performance.now();
  live.took = live.ended - began;
}

function livePoint(cursor) {
  live.map.cursor = cursor;
  live.hovered = cursor ? cursor.token : null;
  live.map.draw();
  liveShowTip();
  liveShowWhy();
}

// --- recordings ---

function liveStop() {
  clearInterval(live.player);
  live.player = null;
}

// Token by token, at a speed that can be read.
function livePlay(message) {
  liveStop();
  const badge = live.find("badge");
  const chars = Array.from(message.text);
  const quiet = { ...message, columns: [], text: "", count: 0, reading: null, meters: [] };
  const status = { phase: "playing", message: message.recorded.note };
  let next = window.matchMedia("(prefers-reduced-motion: reduce)").matches ? message.columns.length : 1;
  let ended = 0;
  live.data.run = null;
  live.data.apply({ ...quiet, status });
  live.show = () => {
    if (next >= message.columns.length) {
      liveStop();
      live.data.apply({ ...message, status: { phase: "recorded", message: message.recorded.note } });
    } else {
      const column = message.columns[next - 1];
      ended = Math.max(ended, column.end);
      live.data.apply({ ...quiet, status, columns: [column], count: next, text: chars.slice(0, ended).join("") });
    }
    next += 1;
    liveRefresh();
  };
  live.finish = () => {
    next = message.columns.length;
    live.show();
  };
  badge.hidden = false;
  badge.textContent = message.recorded.label;
  badge.title = message.recorded.hint;
  live.player = setInterval(live.show, 85);
  live.show();
}

// --- events ---

liveCanvas.addEventListener("pointermove", (event) => livePoint(live.map.at(event.offsetX, event.offsetY)));
liveCanvas.addEventListener("pointerdown", (event) => livePoint(live.map.at(event.offsetX, event.offsetY)));
liveCanvas.addEventListener("click", (event) => {
  const cell = live.map.at(event.offsetX, event.offsetY);
  if (cell) livePin(cell.token);
});
liveCanvas.addEventListener("pointerleave", () => livePoint(null));
liveCanvas.addEventListener("blur", () => livePoint(null));
liveCanvas.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const move = moves[event.key];
  if (!live.data.columns.length) return;
  if (event.key === "Enter" && live.map.cursor && !event.ctrlKey) livePin(live.map.cursor.token);
  if (!move) return;
  event.preventDefault();
  const from = live.map.cursor ?? { token: 0, layer: 0, lane: 0 };
  const clamp = (value, high) => Math.min(Math.max(value, 0), high);
  livePoint({
    lane: from.lane,
    token: clamp(from.token + move[0], live.data.columns.length - 1),
    layer: clamp((from.layer ?? 0) + move[1], live.data.layers - 1),
  });
});
live.find("tokens").addEventListener("pointerover", (event) => {
  const token = Number(event.target.dataset?.token);
  if (live.data.columns[token]) liveHover(token);
});
live.find("tokens").addEventListener("pointerleave", () => liveHover(null));
live.find("tokens").addEventListener("click", (event) => {
  if (event.target.dataset?.token !== undefined) livePin(Number(event.target.dataset.token));
});
live.find("text").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const from = live.hovered ?? live.pinned;
  if (step) {
    event.preventDefault();
    const last = live.data.columns.length - 1;
    if (last >= 0) liveHover(from === null ? (step > 0 ? 0 : last) : Math.min(Math.max(from + step, 0), last));
  } else if ((event.key === "Enter" || event.key === " ") && from !== null && !event.ctrlKey) {
    event.preventDefault();
    livePin(from);
  }
});
live.find("text").addEventListener("blur", () => liveHover(null));
for (const button of live.find("modes").children) {
  button.addEventListener("click", () => {
    live.map.mode = button.dataset.mode;
    for (const other of live.find("modes").children) other.setAttribute("aria-pressed", String(other === button));
    liveRefresh();
  });
}
for (const button of live.find("colors").children) {
  button.addEventListener("click", () => {
    live.words.colors = button.dataset.colors;
    liveRefresh();
    if (!live.data.reading && button.dataset.colors !== "loudness") {
      live.find("why").replaceChildren(makeNode("span", "live-soft", "This colouring is known when the text is whole."));
    }
  });
}

new ResizeObserver(() => live.map.draw()).observe(liveCanvas);
new MutationObserver(liveRefresh).observe(document.body, { attributeFilter: ["class"] });

function liveTake(message) {
  if (message.recorded) {
    live.pinned = live.map.pinned = live.hovered = null;
    live.replaced.add(live.data.run); // a text that was being written when the preset was clicked
    livePlay(message);
    return;
  }
  if (message.run) {
    // What was on its way when Stop was pressed may come after the last picture.
    if (message.run === live.data.run && ["done", "stopped"].includes(live.data.status.phase)) return;
    if (live.replaced.has(message.run)) return;
    liveStop();
    live.find("badge").hidden = true;
    const begins = message.run !== live.data.run;
    if (begins) live.replaced.add(live.data.run);
    if (begins && live.pinned !== null) livePin(null);
    live.hovered = null;
    live.data.apply(message);
    if (begins || message.status.phase !== "writing") liveRefreshNow();
    else liveRefreshInTurn();
    // On a phone the text is below the sliders: bring it into view once, then leave scrolling alone.
    if (begins && window.innerWidth < 700) live.root.scrollIntoView({ behavior: "smooth" });
  } else if (message.status) {
    // The click's own sentence can come after the first words.
    if (message.status.phase === "reading" && live.data.status.phase === "writing") return;
    if (live.player) live.finish();
    live.data.status = message.status; // only the status line changes
    liveShowStatus();
  }
}

watch("value", () => liveTake(props.value ?? {}));
if (props.value?.recorded) {
  livePlay(props.value);
} else {
  Object.assign(live.data, props.value ?? {}); // the opening: adapters, layers, status
  liveRefresh();
}

// The map on the page's ground: the canvas alone has none.
element.querySelector(".live-save").addEventListener("click", () => {
  const map = element.querySelector(".live-map canvas");
  const copy = document.createElement("canvas");
  copy.width = map.width;
  copy.height = map.height;
  const context = copy.getContext("2d");
  context.fillStyle = getComputedStyle(document.body).getPropertyValue("--block-background-fill") || "#ffffff";
  context.fillRect(0, 0, copy.width, copy.height);
  context.drawImage(map, 0, 0);
  copy.toBlob((blob) => saveFile(blob, "contributions.png"));
});
