// What the server sent, put together again. A column lost on the way comes back with a later tail.

class LiveData {
  constructor() {
    this.run = null;
    this.clear();
  }

  clear() {
    this.prompt = "";
    this.chars = [];
    this.layers = 0;
    this.room = 0;
    this.count = 0;
    this.adapters = [];
    this.columns = [];
    this.status = { phase: "idle" };
    this.reading = null;
    this.meters = [];
  }

  apply(message) {
    if (message.run !== this.run) {
      this.clear();
      this.run = message.run;
    }
    // Offsets from the server count code points; a JavaScript string counts UTF-16 units.
    this.chars = Array.from(message.text);
    for (const key of ["prompt", "layers", "room", "count", "adapters", "status"]) this[key] = message[key];
    this.reading = message.reading ?? null;
    this.meters = message.meters ?? [];
    this.columns.length = Math.min(this.columns.length, message.count); // Back takes tokens away
    for (const column of message.columns) this.columns[column.i] = this.decode(column);
  }

  // `means` is each adapter's mean over layers, which tints the word.
  decode(column) {
    const bytes = Uint8Array.from(atob(column.data), (char) => char.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const values = new Float32Array(bytes.length / 2);
    for (let k = 0; k < values.length; k++) values[k] = (view.getUint16(2 * k, true) / 65535) * column.max;
    const means = this.adapters.map((_, k) => {
      let sum = 0;
      for (let layer = 0; layer < this.layers; layer++) sum += values[layer * this.adapters.length + k];
      return this.layers ? sum / this.layers : 0;
    });
    return { end: column.end, values, means };
  }

  value(token, layer, adapter) {
    const column = this.columns[token];
    return column ? column.values[layer * this.adapters.length + adapter] : 0;
  }

  // The text of each token. A character split over tokens can shift an earlier end: never step back.
  pieces() {
    const out = [];
    let start = 0;
    for (let t = 0; t < this.columns.length; t++) {
      const end = Math.max(start, this.columns[t]?.end ?? start);
      out.push(this.chars.slice(start, end).join(""));
      start = end;
    }
    out.push(this.chars.slice(start).join(""));
    return out;
  }

  active() {
    return this.adapters.map((_, k) => k).filter((k) => this.columns.some((column) => column.means[k] > 0));
  }

  // Active adapters with a weight of their own; all active ones where none has (a merged adapter).
  used() {
    const active = this.active();
    const own = active.filter((k) => this.adapters[k].used);
    return own.length ? own : active;
  }

  // The largest cell of the picture, and what is drawn at full brightness: a few outliers would dim the rest.
  peaks(cell) {
    const values = [];
    for (let t = 0; t < this.columns.length; t++) {
      for (let layer = 0; layer < this.layers; layer++) values.push(cell(t, layer));
    }
    values.sort((a, b) => a - b);
    return { peak: values.at(-1) ?? 0, full: values[Math.floor(0.985 * (values.length - 1))] || (values.at(-1) ?? 0) };
  }
}
