// The contribution map on a canvas: sharp at any pixel density, in light and dark.

const LIVE_GUTTER = { left: 34, bottom: 18, top: 4, right: 4 };

// On dark ground the lighter twin, as adapterColor has it.
function liveRgb(hex) {
  const number = parseInt(hex.slice(1), 16);
  const rgb = [number >> 16, (number >> 8) & 255, number & 255];
  return isDark() ? rgb.map((value) => Math.round(0.68 * value + 0.32 * 255)) : rgb;
}

// Colours averaged by share, the larger ones sharpened so that hues stay apart: two adapters that pull equally
// give the colour between theirs, and one that pulls half again as much has the cell nearly to itself.
function liveMix(weights, colors) {
  const shares = weights.map((w) => w ** 4);
  const sum = shares.reduce((a, b) => a + b, 0);
  if (!(sum > 0)) return null;
  return [0, 1, 2].map((c) => Math.round(shares.reduce((acc, w, k) => acc + w * colors[k][c], 0) / sum));
}

// Contributions are a few per cent with a long tail; this exponent lets small ones be seen.
function liveBrightness(value, peak) {
  return peak > 0 ? Math.min(1, Math.pow(value / peak, 0.9)) : 0;
}

class LiveMap {
  constructor(canvas, data) {
    this.canvas = canvas;
    this.data = data;
    this.mode = "mixed";
    this.cursor = null;
    this.pinned = null;
  }

  // Geometry in CSS pixels. Lanes are stacked, the first adapter on top.
  geometry() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const tokens = Math.max(this.data.columns.length, Math.min(this.data.room || 40, 400), 1);
    const lanes = this.mode === "lanes" ? Math.max(1, this.data.active().length) : 1;
    const area = {
      x: LIVE_GUTTER.left,
      y: LIVE_GUTTER.top,
      w: width - LIVE_GUTTER.left - LIVE_GUTTER.right,
      h: height - LIVE_GUTTER.top - LIVE_GUTTER.bottom,
    };
    const gap = lanes > 1 ? 6 : 0;
    const laneHeight = (area.h - gap * (lanes - 1)) / lanes;
    return { width, height, area, lanes, gap, laneHeight, step: Math.min(area.w / tokens, 18), layers: this.data.layers || 30 };
  }

  draw() {
    const geometry = this.geometry();
    if (geometry.area.w <= 0) return; // on a hidden tab; the resize observer draws when it is shown again
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(geometry.width * ratio);
    this.canvas.height = Math.round(geometry.height * ratio);
    const context = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    const ink = style.getPropertyValue("--live-ink");
    context.scale(ratio, ratio);
    context.fillStyle = style.getPropertyValue("--live-ground");
    for (let lane = 0; lane < geometry.lanes; lane++) {
      const y = geometry.area.y + lane * (geometry.laneHeight + geometry.gap);
      context.fillRect(geometry.area.x, y, geometry.area.w, geometry.laneHeight);
    }
    this.drawCells(context, geometry, ratio);
    this.drawAxes(context, geometry, ink);
    this.drawCursor(context, geometry, ink);
    this.canvas.dataset.columns = this.data.columns.filter(Boolean).length;
    this.canvas.dataset.mode = this.mode;
  }

  drawCells(context, geometry, ratio) {
    const { data } = this;
    const colors = data.adapters.map((adapter) => liveRgb(adapter.color));
    const shown = this.mode === "lanes" ? data.active() : [null];
    const used = data.used();
    const total = (t, layer) => used.reduce((sum, k) => sum + data.value(t, layer, k), 0);
    const cell = (t, layer) =>
      this.mode === "lanes" ? Math.max(0, ...shown.map((k) => data.value(t, layer, k))) : total(t, layer);
    const { peak, full } = data.peaks(cell);
    const snap = (value) => Math.round(value * ratio) / ratio;
    const space = geometry.step >= 5 ? 1 : 0;
    shown.forEach((only, lane) => {
      const top = geometry.area.y + lane * (geometry.laneHeight + geometry.gap);
      for (let t = 0; t < data.columns.length; t++) {
        context.globalAlpha = this.pinned === null || this.pinned === t ? 1 : 0.4;
        const left = snap(geometry.area.x + t * geometry.step);
        const right = snap(geometry.area.x + (t + 1) * geometry.step) - space;
        for (let layer = 0; layer < data.layers; layer++) {
          const amount = only === null ? total(t, layer) : data.value(t, layer, only);
          const rgb = only === null ? liveMix(used.map((k) => data.value(t, layer, k)), used.map((k) => colors[k])) : colors[only];
          if (!(amount > 0) || !rgb) continue;
          const low = snap(top + geometry.laneHeight * (1 - (layer + 1) / data.layers));
          const high = snap(top + geometry.laneHeight * (1 - layer / data.layers));
          context.fillStyle = `rgba(${rgb.join(",")},${liveBrightness(amount, full).toFixed(3)})`;
          context.fillRect(left, low, right - left, high - low);
        }
      }
    });
    context.globalAlpha = 1;
    this.canvas.dataset.peak = peak;
  }

  drawAxes(context, geometry, ink) {
    const { area } = geometry;
    context.fillStyle = ink;
    context.font = "11px Inter, ui-sans-serif, system-ui, sans-serif";
    context.textAlign = "right";
    for (let lane = 0; lane < geometry.lanes; lane++) {
      const top = area.y + lane * (geometry.laneHeight + geometry.gap);
      context.textBaseline = "top";
      context.fillText(String(geometry.layers), area.x - 6, top);
      context.textBaseline = "bottom";
      if (geometry.laneHeight > 30) context.fillText("1", area.x - 6, top + geometry.laneHeight);
    }
    context.save();
    context.translate(10, area.y + area.h / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText("layer", 0, 0);
    context.restore();
    context.textAlign = "center";
    context.textBaseline = "top";
    const every = geometry.step * 10 < 26 ? 50 : 10;
    for (let t = every; t * geometry.step <= area.w; t += every) {
      context.fillText(String(t), area.x + (t - 0.5) * geometry.step, area.y + area.h + 4);
    }
    context.textAlign = "left";
    context.fillText("token", area.x, area.y + area.h + 4);
  }

  drawCursor(context, geometry, ink) {
    if (this.pinned !== null && this.data.columns[this.pinned]) {
      context.strokeStyle = ink;
      context.lineWidth = 2;
      const left = geometry.area.x + this.pinned * geometry.step;
      context.strokeRect(left - 1, geometry.area.y, geometry.step + 1, geometry.area.h);
    }
    if (!this.cursor || !this.data.columns[this.cursor.token]) return;
    const { token, layer, lane } = this.cursor;
    const x = geometry.area.x + token * geometry.step;
    const y = geometry.area.y + lane * (geometry.laneHeight + geometry.gap);
    const cell = geometry.laneHeight / geometry.layers;
    context.strokeStyle = ink;
    context.lineWidth = 1;
    context.strokeRect(x - 0.5, geometry.area.y - 0.5, geometry.step + 1, geometry.area.h + 1);
    context.strokeRect(x - 1, y + geometry.laneHeight - (layer + 1) * cell - 1, geometry.step + 2, cell + 2);
  }

  // The cell under a point in CSS pixels, or null outside the drawn columns.
  at(x, y) {
    const geometry = this.geometry();
    const token = Math.floor((x - geometry.area.x) / geometry.step);
    const lane = Math.floor((y - geometry.area.y) / (geometry.laneHeight + geometry.gap));
    if (!this.data.columns[token] || lane < 0 || lane >= geometry.lanes) return null;
    const inside = y - geometry.area.y - lane * (geometry.laneHeight + geometry.gap);
    const layer = Math.floor((1 - inside / geometry.laneHeight) * geometry.layers);
    return { token, lane, layer: Math.min(Math.max(layer, 0), geometry.layers - 1) };
  }

  // Where a token's column is, for the tip.
  center(token) {
    const geometry = this.geometry();
    return geometry.area.x + (token + 0.5) * geometry.step;
  }
}
