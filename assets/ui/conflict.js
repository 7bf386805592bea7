// What the mix does inside the model: four charts.

function conflictHeat(value) {
  const rows = value.conflict;
  const frame = chartFrame(46 + 26 * rows.length, "Cosine of adapters' outputs by layer", { left: window.innerWidth < 620 ? 122 : 150, right: 12, top: 8, bottom: 34 });
  const { svg, area } = frame;
  const wide = area.w / value.layers;
  const tall = area.h / rows.length;
  rows.forEach((row, place) => {
    const label = chartNode("text", { x: area.x - 8, y: area.y + tall * (place + 0.5) + 4, class: "chart-label", "text-anchor": "end" }, row.label);
    svg.append(label);
    row.values.forEach((cosine, layer) => {
      const box = { x: area.x + wide * layer, y: area.y + tall * place + 1, width: Math.max(1, wide - 1), height: tall - 2, rx: 2 };
      const hint = cosine === null ? `layer ${layer + 1}: nothing to compare` : `${row.label}, layer ${layer + 1}: cosine ${signed(cosine, 2)}`;
      const strength = Math.min(1, Math.abs(cosine ?? 0) / 0.5);
      const kind = cosine === null ? "chart-none" : cosine < 0 ? "chart-apart" : "chart-together";
      svg.append(chartMark("rect", { ...box, class: kind, "fill-opacity": cosine === null ? 1 : 0.06 + 0.94 * strength }, hint));
    });
  });
  for (const layer of [1, ...chartTicks(1, value.layers, 5).filter((each) => each > 1)]) {
    svg.append(chartNode("text", { x: area.x + wide * (layer - 0.5), y: area.y + area.h + 13, class: "chart-tick", "text-anchor": "middle" }, String(layer)));
  }
  svg.append(chartNode("text", { x: area.x + area.w / 2, y: area.y + area.h + 27, class: "chart-title", "text-anchor": "middle" }, "layer"));
  return svg;
}

function conflictAdditivity(value) {
  const { pieces, values } = value.additivity;
  const known = values.map((each) => (each === null ? null : Math.max(-0.5, each)));
  const low = Math.min(0, ...known.filter((each) => each !== null));
  const frame = chartFrame(200, "Additivity of each token");
  const scales = chartAxes(
    frame,
    { low: 0.4, high: values.length + 0.6, title: "token" },
    { low, high: 1, title: "kept", ticks: chartTicks(low, 1, 4), form: (tick) => `${Math.round(100 * tick)}%` },
  );
  const wide = (frame.area.w / Math.max(1, values.length)) * 0.8;
  known.forEach((each, place) => {
    if (each === null) return;
    const top = Math.min(scales.y(each), scales.y(0));
    const box = { x: scales.x(place + 1) - wide / 2, y: top, width: wide, height: Math.max(1, Math.abs(scales.y(each) - scales.y(0))), rx: 2 };
    frame.svg.append(chartMark("rect", { ...box, class: each < 0 ? "chart-apart" : "chart-together" }, `“${pieces[place]}”: ${Math.round(100 * values[place])}%`));
  });
  return frame.svg;
}

function conflictOutputs(value) {
  const frame = chartFrame(200, "Share of each adapter in what all of them add, by layer");
  const scales = chartAxes(
    frame,
    { low: 0.4, high: value.layers + 0.6, title: "layer", ticks: [1, ...chartTicks(1, value.layers, 5).filter((each) => each > 1)] },
    { low: 0, high: 1, title: "share", form: (tick) => `${Math.round(100 * tick)}%` },
  );
  const wide = (frame.area.w / value.layers) * 0.85;
  for (let layer = 0; layer < value.layers; layer++) {
    let top = 0;
    for (const each of value.outputs) {
      const share = each.values[layer];
      if (share === null) continue;
      const box = { x: scales.x(layer + 1) - wide / 2, y: scales.y(top + share), width: wide, height: scales.y(top) - scales.y(top + share) };
      top += share;
      frame.svg.append(chartMark("rect", { ...box, style: `fill: ${adapterColor(each.color)}` }, `${each.label}, layer ${layer + 1}: ${Math.round(100 * share)}%`));
    }
  }
  return frame.svg;
}

function conflictBands(value) {
  const { names, rows } = value.bands;
  const all = rows.flatMap((row) => row.values);
  const low = 1.06 * Math.min(-0.05, ...all);
  const high = Math.max(0, ...all);
  const frame = chartFrame(200, "What the text loses without a third of the layers");
  const scales = chartAxes(
    frame,
    { low: 0, high: names.length, title: "left out", ticks: names.map((_, place) => place + 0.5), form: (at) => names[Math.floor(at)] },
    { low, high, title: "nats a word" },
  );
  const wide = (frame.area.w / names.length) * (0.8 / rows.length);
  rows.forEach((row, place) => {
    row.values.forEach((loss, band) => {
      const x = scales.x(band + 0.1) + wide * place;
      const top = Math.min(scales.y(loss), scales.y(0));
      const box = { x, y: top, width: wide - 2, height: Math.max(1, Math.abs(scales.y(loss) - scales.y(0))), rx: 2 };
      const style = `fill: ${adapterColor(row.color)}`;
      frame.svg.append(chartMark("rect", { ...box, style }, `${row.label} without the ${names[band]} layers: ${signed(loss, 2)} nats a word`));
    });
  });
  return frame.svg;
}

function conflictCards(value) {
  const told = value.findings;
  const many = value.conflict.length > 0;
  const cards = [
    chartCard(
      "Who pulls against whom", many ? conflictHeat(value) : null,
      "A row is two adapters, a column a layer: the cosine of what they add there. Blue: they pull the same way; red: they fight; pale: they do not meet.",
      told.conflict, "conflict",
    ),
    chartCard(
      "Does the sum hold?", conflictAdditivity(value),
      "For each word, how much of what the adapters do to it together is the sum of what each does alone. 100%: superposition holds; 0 or less: they work on each other.",
      told.additivity, "additivity",
    ),
    chartCard(
      "Who is loud where", conflictOutputs(value),
      "How the adapters share what they add in a layer: the sizes of their outputs with their sliders, averaged over the prompt.",
      told.outputs, "outputs",
    ),
    chartCard(
      "Which layers matter", conflictBands(value),
      "How much less likely each word of the text gets when an adapter, or all of them, stay silent in a third of the layers. Further down: that third carried it.",
      told.bands, "bands",
    ),
  ];
  cards[2].insertBefore(chartLegend(value.outputs), cards[2].querySelector("svg"));
  cards[3].insertBefore(chartLegend(value.bands.rows), cards[3].querySelector("svg"));
  return cards;
}

const conflictValue = inOrder(() => props.value ?? {});

function conflictShow() {
  const value = conflictValue();
  const message = element.querySelector(".finder-message");
  message.textContent = value.message ?? "";
  message.classList.toggle("fault", Boolean(value.error));
  element.querySelector(".finder-progress").hidden = !value.busy;
  element.querySelector(".chart-files").hidden = !value.file;
  const text = element.querySelector(".conflict-text");
  text.hidden = !value.text;
  text.replaceChildren(makeNode("span", "compare-prompt", value.prompt ?? ""), value.text ?? "");
  if (!value.busy) element.querySelector(".chart-cards").replaceChildren(...(value.findings ? conflictCards(value) : []));
}

element.querySelector(".chart-files button").addEventListener("click", () => {
  saveFile(new Blob([conflictValue().file], { type: "application/json" }), "conflict.json");
});
new MutationObserver(conflictShow).observe(document.body, { attributeFilter: ["class"] });
watch("value", conflictShow);
conflictShow();
