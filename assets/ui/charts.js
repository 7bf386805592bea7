// Small charts in SVG, drawn from numbers. Every string goes in as text; colours were checked to be #rrggbb.

const CHART_NS = "http://www.w3.org/2000/svg";

function chartNode(tag, attributes, text) {
  const node = document.createElementNS(CHART_NS, tag);
  for (const [name, value] of Object.entries(attributes ?? {})) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// A rectangle or a dot that says its numbers when it is pointed at.
function chartMark(tag, attributes, hint) {
  const node = chartNode(tag, attributes);
  if (hint) node.append(chartNode("title", {}, hint));
  return node;
}

// As wide as a phone's card, or as half a page: a chart is never shrunk, so that its words can be read.
function chartWidth() {
  return window.innerWidth < 620 ? Math.max(260, window.innerWidth - 72) : 560;
}

// An empty chart with room for its axes. label: what a screen reader says of it.
function chartFrame(height, label, margin = { left: 46, right: 12, top: 10, bottom: 30 }) {
  const width = chartWidth();
  const svg = chartNode("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label });
  const area = { x: margin.left, y: margin.top, w: width - margin.left - margin.right, h: height - margin.top - margin.bottom };
  return { svg, area, width, height };
}

// Round numbers between low and high, about `count` of them.
function chartTicks(low, high, count = 4) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((each) => each * power >= rough) ?? 10);
  const ticks = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + 1e-9; at += step) ticks.push(Number(at.toFixed(10)));
  return ticks;
}

// Axes with their grid. x, y: {low, high, title, ticks?, form?}. Returns the scales.
function chartAxes(frame, x, y) {
  const { svg, area } = frame;
  const scaleX = (value) => area.x + (area.w * (value - x.low)) / (x.high - x.low || 1);
  const scaleY = (value) => area.y + area.h - (area.h * (value - y.low)) / (y.high - y.low || 1);
  for (const tick of y.ticks ?? chartTicks(y.low, y.high)) {
    svg.append(chartNode("line", { x1: area.x, x2: area.x + area.w, y1: scaleY(tick), y2: scaleY(tick), class: "chart-grid" }));
    svg.append(chartNode("text", { x: area.x - 6, y: scaleY(tick) + 3.5, class: "chart-tick", "text-anchor": "end" }, (y.form ?? String)(tick)));
  }
  for (const tick of x.ticks ?? chartTicks(x.low, x.high, 6)) {
    svg.append(chartNode("text", { x: scaleX(tick), y: area.y + area.h + 13, class: "chart-tick", "text-anchor": "middle" }, (x.form ?? String)(tick)));
  }
  if (x.title) svg.append(chartNode("text", { x: area.x + area.w / 2, y: area.y + area.h + 26, class: "chart-title", "text-anchor": "middle" }, x.title));
  if (y.title) {
    const middle = area.y + area.h / 2;
    svg.append(chartNode("text", { x: 10, y: middle, class: "chart-title", "text-anchor": "middle", transform: `rotate(-90 10 ${middle})` }, y.title));
  }
  return { x: scaleX, y: scaleY };
}

// A line through [x, y] points; a missing y breaks it.
function chartLine(frame, scales, points, color, options = {}) {
  let path = "";
  let drawn = false;
  for (const [x, y] of points) {
    if (y === null || y === undefined) drawn = false;
    else {
      path += `${drawn ? "L" : "M"}${scales.x(x).toFixed(1)} ${scales.y(y).toFixed(1)}`;
      drawn = true;
    }
  }
  const line = { d: path, fill: "none", "stroke-width": options.width ?? 2, style: `stroke: ${color}` };
  if (options.dash) line["stroke-dasharray"] = options.dash;
  frame.svg.append(chartNode("path", line));
  if (options.dots) {
    for (const [x, y] of points) {
      if (y === null || y === undefined) continue;
      const dot = { cx: scales.x(x), cy: scales.y(y), r: 3, style: `fill: ${color}` };
      frame.svg.append(chartMark("circle", dot, options.dots(x, y)));
    }
  }
}

// The chart as a PNG, on the page's ground and with its ink.
function chartDownload(svg, name) {
  const copy = svg.cloneNode(true);
  const live = [svg, ...svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((node, index) => {
    const style = getComputedStyle(live[index]);
    for (const key of ["fill", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-family", "opacity"]) {
      node.style.setProperty(key, style.getPropertyValue(key));
    }
  });
  const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
  copy.setAttribute("width", width);
  copy.setAttribute("height", height);
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas");
    canvas.width = 2 * width;
    canvas.height = 2 * height;
    const context = canvas.getContext("2d");
    context.fillStyle = getComputedStyle(document.body).getPropertyValue("--block-background-fill") || "#ffffff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => saveFile(blob, `${name}.png`));
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
}

// A figure: heading, the chart with a button for its PNG, how to read it, what it says here.
function chartCard(heading, svg, reading, finding, name) {
  const card = makeNode("figure", "chart-card");
  const head = makeNode("div", "chart-head");
  head.append(makeNode("h3", "", heading));
  const save = makeNode("button", "quiet-button", "PNG");
  save.type = "button";
  save.setAttribute("aria-label", `Download ${heading} as PNG`);
  save.addEventListener("click", () => chartDownload(svg, name));
  if (svg) head.append(save);
  card.append(head);
  if (finding) card.append(makeNode("p", "chart-finding", finding));
  if (svg) card.append(svg);
  card.append(makeNode("figcaption", "", reading));
  return card;
}

// Labels with their colours.
function chartLegend(entries) {
  const list = makeNode("ul", "chart-legend");
  for (const each of entries) {
    const item = makeNode("li");
    if (each.color) item.append(makeChip(each.color));
    item.append(each.label);
    list.append(item);
  }
  return list;
}
