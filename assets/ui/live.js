// Wires the live view: text, status, legend, map and tip. Strings from outside only become textContent.

const live = {
  root: element.querySelector(".live"),
  data: new LiveData(),
  find: (name) => element.querySelector(`.live-${name}`),
};
const liveCanvas = live.root.querySelector("canvas");
live.map = new LiveMap(liveCanvas, live.data);
liveCanvas.composer = live.data; // what is drawn, for tests and for the curious

function livePercent(value) {
  return `${(100 * value).toFixed(value < 0.0995 ? 2 : 1)}%`;
}

function liveShowText() {
  const { data } = live;
  live.find("prompt").textContent = data.prompt;
  live.find("hint").hidden = Boolean(data.run);
  live.find("caret").hidden = !["reading", "writing"].includes(data.status.phase);
  const colors = data.adapters.map((adapter) => liveRgb(adapter.color));
  const means = data.columns.map((column) => column.means);
  const sums = means.map((row) => row.reduce((a, b) => a + b, 0));
  const peak = sums.reduce((a, b) => Math.max(a, b), 0); // skips columns not here yet, where spread would not
  const spans = data.pieces().map((piece, t) => {
    const span = makeNode("span", "live-token", piece);
    const rgb = means[t] && liveMix(means[t], colors);
    if (rgb) span.style.setProperty("--tint", `rgba(${rgb.join(",")},${(0.45 * (sums[t] / peak) ** 3).toFixed(3)})`);
    span.dataset.token = t;
    return span;
  });
  const box = live.find("text");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
  live.find("tokens").replaceChildren(...spans);
  if (atEnd) box.scrollTop = box.scrollHeight;
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

function liveShowLegend() {
  const active = new Set(live.data.columns.length ? live.data.active() : live.data.adapters.keys());
  const items = live.data.adapters.map((adapter, k) => {
    const item = makeNode("li", active.has(k) ? "" : "live-off");
    const chip = makeNode("span", "live-chip");
    chip.style.background = adapter.color;
    item.append(chip, adapter.label);
    return item;
  });
  const peak = Number(liveCanvas.dataset.peak);
  live.find("legend").replaceChildren(...items);
  live.find("scale").textContent = peak > 0 ? `The brightest is ${livePercent(peak)} of the base's own output.` : "";
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
  tip.hidden = !cursor || !data.columns[cursor.token];
  for (const span of live.find("tokens").children) {
    span.classList.toggle("live-here", !tip.hidden && Number(span.dataset.token) === cursor.token);
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
      const chip = makeNode("span", "live-chip");
      chip.style.background = adapter.color;
      row.append(chip, makeNode("span", "", adapter.label), makeNode("b", "", livePercent(value)));
      return row;
    });
  tip.replaceChildren(head, ...(rows.length ? rows : [makeNode("div", "", "the base alone")]));
  const center = live.map.center(cursor.token);
  const width = liveCanvas.clientWidth;
  tip.style.left = `${Math.min(Math.max(center - tip.offsetWidth / 2, 0), width - tip.offsetWidth)}px`;
}

function liveRefresh() {
  liveShowText();
  live.map.draw();
  liveShowStatus();
  liveShowLegend();
  liveShowTip();
  liveCanvas.setAttribute("aria-label", liveDescribe());
}

function livePoint(cursor) {
  live.map.cursor = cursor;
  live.map.draw();
  liveShowTip();
}

liveCanvas.addEventListener("pointermove", (event) => livePoint(live.map.at(event.offsetX, event.offsetY)));
liveCanvas.addEventListener("pointerdown", (event) => livePoint(live.map.at(event.offsetX, event.offsetY)));
liveCanvas.addEventListener("pointerleave", () => livePoint(null));
liveCanvas.addEventListener("blur", () => livePoint(null));
liveCanvas.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const move = moves[event.key];
  if (!move || !live.data.columns.length) return;
  event.preventDefault();
  const from = live.map.cursor ?? { token: 0, layer: 0, lane: 0 };
  const clamp = (value, high) => Math.min(Math.max(value, 0), high);
  livePoint({
    lane: from.lane,
    token: clamp(from.token + move[0], live.data.columns.length - 1),
    layer: clamp(from.layer + move[1], live.data.layers - 1),
  });
});
live.find("tokens").addEventListener("pointerover", (event) => {
  const token = Number(event.target.dataset?.token);
  if (live.data.columns[token]) livePoint({ token, layer: Math.floor(live.data.layers / 2), lane: 0 });
});
live.find("tokens").addEventListener("pointerleave", () => livePoint(null));
for (const button of live.find("modes").children) {
  button.addEventListener("click", () => {
    live.map.mode = button.dataset.mode;
    for (const other of live.find("modes").children) other.setAttribute("aria-pressed", String(other === button));
    liveRefresh();
  });
}

new ResizeObserver(() => live.map.draw()).observe(liveCanvas);
new MutationObserver(() => live.map.draw()).observe(document.body, { attributeFilter: ["class"] });
watch("value", () => {
  const message = props.value ?? {};
  if (message.run) {
    // What was on its way when Stop was pressed may come after the last picture.
    if (message.run === live.data.run && ["done", "stopped"].includes(live.data.status.phase)) return;
    const begins = message.run !== live.data.run;
    live.data.apply(message);
    liveRefresh();
    // On a phone the text is below the sliders: bring it into view once, then leave scrolling alone.
    if (begins && window.innerWidth < 700) live.root.scrollIntoView({ behavior: "smooth" });
  } else if (message.status) {
    live.data.status = message.status; // only the status line changes
    liveShowStatus();
  }
});
Object.assign(live.data, props.value ?? {}); // the opening: adapters, layers, status
liveRefresh();
