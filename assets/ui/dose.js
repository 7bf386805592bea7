// How much is right: curves over one weight, or a heat map over two.

const doseKinds = { csv: "text/csv", json: "application/json" };
const dosePercent = (value) => `${Math.round(100 * value)}%`;

// low: whether the curve is near the bottom at the sweet spot, whose label then goes to the top.
function doseFrame(value, label, y, low = false) {
  const weights = value.axes[0].weights;
  const frame = chartFrame(220, label);
  const x = { low: weights[0], high: weights.at(-1), title: `weight of ${value.axes[0].label}` };
  const scales = chartAxes(frame, x, y);
  if (value.spot !== null) {
    const at = scales.x(weights[value.spot]);
    frame.svg.append(chartNode("line", { x1: at, x2: at, y1: frame.area.y, y2: frame.area.y + frame.area.h, class: "chart-spot" }));
    const right = at < frame.area.x + frame.area.w - 70;
    frame.svg.append(chartNode("text", { x: at + (right ? 5 : -5), y: low ? frame.area.y + 22 : frame.area.y + frame.area.h - 6, class: "chart-spot-label", "text-anchor": right ? "start" : "end" }, "sweet spot"));
  }
  return { frame, scales, weights };
}

function doseScores(value) {
  const { frame, scales, weights } = doseFrame(value, "Share of texts with each attribute by weight", { low: 0, high: 1, title: "texts that have it", form: dosePercent });
  for (const each of value.series) {
    const known = each.values.map((one, place) => [weights[place], ...one]).filter((one) => one[1] !== null);
    const color = adapterColor(each.color);
    if (known.length > 1) {
      const band = [...known.map(([x, , , high]) => [x, high]), ...known.toReversed().map(([x, , low]) => [x, low])];
      const path = band.map(([x, y], place) => `${place ? "L" : "M"}${scales.x(x).toFixed(1)} ${scales.y(y).toFixed(1)}`).join("");
      frame.svg.append(chartNode("path", { d: `${path}Z`, "fill-opacity": 0.13, style: `fill: ${color}` }));
    }
    chartLine(frame, scales, known, color, { dots: (x, y) => `${each.label} at weight ${x}: ${dosePercent(y)} of the texts` });
  }
  if (value.series.length > 1) {
    const points = value.together.map(([share], place) => [weights[place], share]);
    chartLine(frame, scales, points, "var(--body-text-color)", { dash: "5 4", dots: (x, y) => `all of them at weight ${x}: ${dosePercent(y)}` });
  }
  return frame.svg;
}

function doseLine(value, key, label, title, form) {
  const known = value[key].filter((each) => each !== null);
  const high = Math.max(...known, key === "repetition" ? 0.1 : 1) * 1.05;
  const low = value[key][value.spot] < high / 3;
  const { frame, scales, weights } = doseFrame(value, label, { low: 0, high, title, form }, low);
  const points = value[key].map((each, place) => [weights[place], each]);
  chartLine(frame, scales, points, "var(--body-text-color)", { dots: (x, y) => `at weight ${x}: ${form(y)}` });
  return frame.svg;
}

function doseHeat(value, shares, label, form, strength) {
  const [first, second] = value.axes;
  const frame = chartFrame(60 + 34 * first.weights.length, label, { left: 70, right: 12, top: 8, bottom: 40 });
  const { svg, area } = frame;
  const wide = area.w / second.weights.length;
  const tall = area.h / first.weights.length;
  first.weights.forEach((weight, row) => {
    const y = area.y + area.h - tall * (row + 1);
    svg.append(chartNode("text", { x: area.x - 8, y: y + tall / 2 + 4, class: "chart-tick", "text-anchor": "end" }, String(weight)));
    second.weights.forEach((other, column) => {
      const place = row * second.weights.length + column;
      const share = shares[place];
      const x = area.x + wide * column;
      const box = { x: x + 1, y: y + 1, width: wide - 2, height: tall - 2, rx: 3 };
      const hint = share === null ? "no text yet" : `${first.label} ${weight}, ${second.label} ${other}: ${form(share)} of ${value.texts[place]} texts`;
      const much = share === null ? 0 : strength(share);
      svg.append(chartMark("rect", { ...box, class: share === null ? "chart-none" : "chart-together", "fill-opacity": share === null ? 0.4 : 0.06 + 0.94 * much }, hint));
      if (place === value.spot) svg.append(chartNode("rect", { ...box, class: "chart-frame" }));
      if (share !== null) svg.append(chartNode("text", { x: x + wide / 2, y: y + tall / 2 + 4, class: much > 0.55 ? "chart-on" : "chart-label", "text-anchor": "middle" }, form(share)));
    });
  });
  second.weights.forEach((other, column) => {
    svg.append(chartNode("text", { x: area.x + wide * (column + 0.5), y: area.y + area.h + 14, class: "chart-tick", "text-anchor": "middle" }, String(other)));
  });
  svg.append(chartNode("text", { x: area.x + area.w / 2, y: area.y + area.h + 31, class: "chart-title", "text-anchor": "middle" }, `weight of ${second.label}`));
  const middle = area.y + area.h / 2;
  svg.append(chartNode("text", { x: 14, y: middle, class: "chart-title", "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, `weight of ${first.label}`));
  return svg;
}

function doseCards(value) {
  const means = value.series.map((each) => `${each.label}: ${each.means}`).join("; ");
  const decided = means ? ` Decided by ${means}.` : "";
  const round = (each) => each.toFixed(1);
  const cards = [];
  if (value.axes.length === 2) {
    const low = Math.min(...value.perplexity.filter((each) => each !== null));
    if (value.series.length) {
      const both = value.together.map(([share]) => share);
      cards.push(chartCard("All right at once", doseHeat(value, both, "Share of texts that have every attribute", dosePercent, (share) => share), `A cell is a pair of weights: the share of its texts that have every attribute. Framed: the sweet spot.${decided}`, value.finding, "dose"));
    }
    cards.push(chartCard("Fluency", doseHeat(value, value.perplexity, "Perplexity of the texts", round, (each) => Math.min(1, Math.max(0, (each / low - 1) / 2))), "The texts' perplexity under the base, the median: lower is more fluent. The stronger the colour, the worse.", value.series.length ? "" : value.finding, "fluency"));
    return cards;
  }
  if (value.series.length) {
    const card = chartCard("Who gets through", doseScores(value), `The share of texts that have each attribute, with its 95% interval; dashed: all of them at once.${decided}`, value.finding, "dose");
    card.insertBefore(chartLegend(value.series), card.querySelector("svg"));
    cards.push(card);
  }
  cards.push(chartCard("Fluency", doseLine(value, "perplexity", "Perplexity by weight", "perplexity", round), "The texts' perplexity under the base, the median: lower is more fluent.", value.series.length ? "" : value.finding, "fluency"));
  cards.push(chartCard("Repetition", doseLine(value, "repetition", "Repetition by weight", "repeated", dosePercent), "The share of a text's runs of four words that it has had before.", "", "repetition"));
  return cards;
}

const doseValue = inOrder(() => props.value ?? {});

function doseShow() {
  const value = doseValue();
  const message = element.querySelector(".finder-message");
  message.textContent = [value.message ?? "", value.fault].filter(Boolean).join(" ");
  message.classList.toggle("fault", Boolean(value.error));
  const bar = element.querySelector(".finder-progress");
  bar.hidden = !value.busy;
  if (value.total) {
    bar.max = value.total;
    bar.value = value.done;
  } else bar.removeAttribute("value");
  element.querySelector(".chart-files").hidden = !value.files?.csv;
  const cards = element.querySelector(".chart-cards");
  if (value.done) cards.replaceChildren(...doseCards(value));
  else if (!value.axes) cards.replaceChildren();
}

for (const button of element.querySelectorAll("[data-file]")) {
  button.addEventListener("click", () => {
    const kind = button.dataset.file;
    saveFile(new Blob([doseValue().files[kind]], { type: doseKinds[kind] }), `dose.${kind}`);
  });
}
new MutationObserver(doseShow).observe(document.body, { attributeFilter: ["class"] });
watch("value", doseShow);
doseShow();
