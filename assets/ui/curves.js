// The painter of curves: a small picture beside each slider opens it. Its value is {curves, schedule} by adapter.

const painter = {
  root: element.querySelector(".curve-editor"),
  find: (name) => element.querySelector(`.curve-${name}`),
  slot: null, // the one that is open
  curves: { ...(props.value?.curves ?? {}) },
  schedule: { ...(props.value?.schedule ?? {}) },
  painting: false,
};

const paintFlat = () => [...props.presets.all];
const paintCount = () => paintFlat().length;

// A curve of other anchors, from a recipe, is drawn at ours.
function paintAnchors(name) {
  const curve = painter.curves[name];
  if (!curve?.length) return paintFlat();
  if (curve.length === paintCount()) return [...curve];
  return paintFlat().map((_, i) => {
    const at = (i * (curve.length - 1)) / (paintCount() - 1);
    const low = Math.floor(at);
    return curve[low] + (at - low) * ((curve[low + 1] ?? curve[low]) - curve[low]);
  });
}

function paintDraw(canvas, anchors, color, grid) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width) return;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  context.scale(ratio, ratio);
  const x = (i) => 4 + (i * (width - 8)) / (anchors.length - 1);
  const y = (value) => height - 4 - (Math.min(Math.max(value, 0), props.highest) / props.highest) * (height - 8);
  if (grid) {
    context.strokeStyle = style.getPropertyValue("--line");
    for (const value of [0, 1, 2]) {
      context.beginPath();
      context.moveTo(4, y(value));
      context.lineTo(width - 4, y(value));
      context.stroke();
    }
    context.fillStyle = style.getPropertyValue("--soft");
    context.font = "11px Inter, ui-sans-serif, sans-serif";
    context.fillText("× 1", 6, y(1) - 4);
  }
  context.beginPath();
  anchors.forEach((value, i) => context[i ? "lineTo" : "moveTo"](x(i), y(value)));
  context.strokeStyle = color;
  context.lineWidth = 2.2;
  context.lineJoin = "round";
  context.stroke();
  context.lineTo(x(anchors.length - 1), y(0));
  context.lineTo(x(0), y(0));
  context.globalAlpha = 0.15;
  context.fillStyle = color;
  context.fill();
  context.globalAlpha = 1;
  if (!grid) return;
  context.fillStyle = color;
  anchors.forEach((value, i) => {
    context.beginPath();
    context.arc(x(i), y(value), 3.5, 0, 7);
    context.fill();
  });
}

function paintColor(slot) {
  const probe = makeNode("span");
  probe.style.color = adapterColor(slot.colors[slot.colors.length - 1]);
  document.body.append(probe);
  const color = getComputedStyle(probe).color;
  probe.remove();
  return color;
}

// A button with the curve beside every slider; Gradio makes sliders anew when they are shown.
function paintButtons() {
  for (const slot of props.slots) {
    const slider = document.querySelector(`#${CSS.escape(slot.key)}`);
    if (!slider || !slot.names.length) continue;
    let button = slider.querySelector(".curve-button");
    if (!button) {
      button = makeNode("button", "curve-button");
      button.type = "button";
      button.append(makeNode("canvas"));
      button.addEventListener("click", () => paintOpen(button.opens));
      slider.append(button);
    }
    button.opens = slot;
    const scheduled = Boolean(painter.schedule[slot.names[0]]);
    const flat = paintAnchors(slot.names[0]).every((value) => value === 1);
    button.setAttribute("aria-label", `Curve over the layers of ${slot.names.join(" and ")}${flat ? "" : ", painted"}`);
    button.title = scheduled ? "Curve over the layers; with a span of tokens" : "Curve over the layers";
    button.classList.toggle("curve-scheduled", scheduled);
    button.setAttribute("aria-expanded", String(painter.slot?.key === slot.key));
    paintDraw(button.firstChild, paintAnchors(slot.names[0]), paintColor(slot), false);
  }
}

function paintOpen(slot) {
  const closes = painter.slot?.key === slot.key;
  painter.slot = closes ? null : slot;
  painter.root.hidden = closes;
  if (!closes) {
    document.querySelector(`#${CSS.escape(slot.key)}`).after(element.closest("#curves") ?? element);
    const span = painter.schedule[slot.names[0]] ?? [1, null];
    painter.find("from").value = span[0];
    painter.find("to").value = span[1] ?? "";
    paintEditor();
    painter.find("anchors").querySelector("input").focus({ preventScroll: true });
  }
  paintButtons();
}

function paintEditor() {
  const { slot } = painter;
  if (!slot) return;
  const anchors = paintAnchors(slot.names[0]);
  const layers = props.layers;
  painter.find("head").querySelector("h3").textContent = `${slot.label ?? slot.names.join(" and ")}: curve over the layers`;
  painter.find("last").textContent = `layer ${layers}`;
  const inputs = [...painter.find("anchors").children];
  anchors.forEach((value, i) => {
    let input = inputs[i];
    if (!input) {
      input = makeNode("input");
      input.type = "range";
      Object.assign(input, { min: 0, max: props.highest, step: 0.05 });
      input.addEventListener("input", () => paintSet(i, Number(input.value)));
      input.addEventListener("change", paintDone);
      painter.find("anchors").append(input);
    }
    const layer = 1 + Math.round((i * (layers - 1)) / (anchors.length - 1));
    input.setAttribute("aria-label", `Strength at layer ${layer}`);
    input.setAttribute("aria-orientation", "vertical");
    input.value = value;
  });
  const canvas = painter.find("paint").querySelector("canvas");
  canvas.dataset.curve = anchors.join(" ");
  paintDraw(canvas, anchors, paintColor(slot), true);
  const names = [...Object.keys(props.presets), ...(props.alpha?.[slot.names[0]] ? ["from KL"] : [])];
  const buttons = names.map((name) => {
    const button = makeNode("button", "", name);
    button.type = "button";
    button.addEventListener("click", () => {
      paintCurve(name === "from KL" ? props.alpha[slot.names[0]] : props.presets[name]);
      paintDone();
    });
    return button;
  });
  painter.find("presets").replaceChildren(...buttons);
}

function paintCurve(anchors) {
  for (const name of painter.slot.names) painter.curves[name] = [...anchors];
  paintEditor();
  paintButtons();
}

function paintSet(place, value) {
  const anchors = paintAnchors(painter.slot.names[0]);
  anchors[place] = Math.round(Math.min(Math.max(value, 0), props.highest) * 20) / 20;
  paintCurve(anchors);
}

// The value goes to the server when the hand is off.
function paintDone() {
  props.value = { curves: { ...painter.curves }, schedule: { ...painter.schedule } };
  trigger("edit");
}

function paintSpan() {
  const from = Math.max(1, Math.round(Number(painter.find("from").value) || 1));
  const text = painter.find("to").value;
  const to = text === "" ? null : Math.max(from, Math.round(Number(text) || from));
  for (const name of painter.slot.names) {
    if (from === 1 && to === null) delete painter.schedule[name];
    else painter.schedule[name] = [from, to];
  }
  paintButtons();
  paintDone();
}

const paintArea = painter.find("paint");
function paintAt(event) {
  const box = paintArea.querySelector("canvas").getBoundingClientRect();
  const place = Math.round(((event.clientX - box.left - 4) / (box.width - 8)) * (paintCount() - 1));
  const value = ((box.bottom - 4 - event.clientY) / (box.height - 8)) * props.highest;
  paintSet(Math.min(Math.max(place, 0), paintCount() - 1), value);
}
paintArea.addEventListener("pointerdown", (event) => {
  event.preventDefault();
  painter.painting = true;
  paintArea.setPointerCapture(event.pointerId);
  paintAt(event);
});
paintArea.addEventListener("pointermove", (event) => painter.painting && paintAt(event));
for (const name of ["pointerup", "pointercancel"]) {
  paintArea.addEventListener(name, () => {
    if (painter.painting) paintDone();
    painter.painting = false;
  });
}
painter.find("close").addEventListener("click", () => paintOpen(painter.slot));
painter.find("from").addEventListener("change", paintSpan);
painter.find("to").addEventListener("change", paintSpan);

new MutationObserver(() => {
  const missing = props.slots.some((slot) => {
    const slider = document.querySelector(`#${CSS.escape(slot.key)}`);
    return slider && slot.names.length && !slider.querySelector(".curve-button");
  });
  if (missing) paintButtons();
}).observe(document.querySelector("#controls") ?? document.body, { subtree: true, childList: true });
new MutationObserver(() => { paintButtons(); paintEditor(); }).observe(document.body, { attributeFilter: ["class"] });
new ResizeObserver(paintButtons).observe(document.querySelector("#controls") ?? document.body);
watch(["value", "slots", "alpha"], () => {
  painter.curves = { ...(props.value?.curves ?? {}) };
  painter.schedule = { ...(props.value?.schedule ?? {}) };
  paintEditor();
  paintButtons();
});
paintButtons();
