// What a word says of itself: its colour, its line of numbers, and the words that it was drawn from.

class LiveWords {
  constructor(data) {
    this.data = data;
    this.colors = "push";
  }

  // Without a reading, which comes when the text is whole, only loudness is known.
  get mode() {
    return this.data.reading ? this.colors : "loudness";
  }

  // [colour, share of it from 0 to 1] of a token, or null.
  tint(t, peak) {
    const { data } = this;
    if (this.mode === "loudness") {
      const used = data.used();
      const means = data.columns[t] && used.map((k) => data.columns[t].means[k]);
      const rgb = means && liveMix(means, used.map((k) => liveRgb(data.adapters[k].color)));
      if (!rgb || !(peak > 0)) return null;
      return [`rgb(${rgb.join(",")})`, 0.45 * (means.reduce((a, b) => a + b, 0) / peak) ** 3];
    }
    if (this.mode === "surprise") {
      const nats = -(data.reading.base[t] ?? 0);
      return nats > 1 ? ["#b06a00", Math.min(0.5, 0.06 * nats)] : null;
    }
    const winner = this.winner(t);
    if (winner < 0) return null;
    return [data.reading.adapters[winner].color, Math.min(0.42, 0.08 + 0.13 * data.reading.push[t][winner])];
  }

  // The adapter in use that raised the token most, if one did by more than a quarter of a nat.
  winner(t) {
    const { reading } = this.data;
    const push = reading?.push[t] ?? [];
    let best = -1;
    push.forEach((nats, k) => {
      if (reading.adapters[k].used && nats > 0.25 && (best < 0 || nats > push[best])) best = k;
    });
    return best;
  }

  // The line under the text: who pushed the word, and how likely it was.
  explain(t) {
    const { data } = this;
    const word = data.pieces()[t] ?? "";
    const parts = [makeNode("q", "", word.trim() || "line break")];
    const { reading } = data;
    if (!reading || reading.base[t] === undefined) {
      parts.push(makeNode("span", "live-soft", reading ? "" : "Pushes are known when the text is whole."));
      return parts;
    }
    const order = reading.adapters.map((_, k) => k).filter((k) => reading.adapters[k].used);
    order.sort((a, b) => reading.push[t][b] - reading.push[t][a]);
    for (const k of order.slice(0, 4)) {
      const item = makeNode("span", "live-push");
      item.append(makeChip(reading.adapters[k].color), `${reading.adapters[k].label} `);
      item.append(makeNode("b", "", signed(reading.push[t][k])), " nats");
      item.title = "What this adapter alone, with its weight in the mix, adds to the word's log-probability";
      parts.push(item);
    }
    const chance = (log) => livePercent(Math.exp(log));
    const odds = makeNode("span", "", `chance ${chance(reading.base[t])} for the base, `);
    odds.append(makeNode("b", "", chance(reading.composed[t])), " for the mix");
    parts.push(odds);
    return parts;
  }

  // The panel's value for the words that a token was drawn from.
  drawnFrom(t) {
    const { reading } = this.data;
    const words = reading?.words[t];
    if (!words) return null;
    const drawn = this.data.pieces()[t].trim();
    return {
      title: `Token ${t + 1} was drawn from`,
      message: "",
      words: words.map(([text, base, composed, k]) => ({
        text, base, composed, pushes: [],
        color: k < 0 ? "#8d887c" : reading.adapters[k].color,
        drawn: text === drawn,
      })),
    };
  }
}

function livePercent(value) {
  return `${(100 * value).toFixed(value < 0.0995 ? 2 : value < 0.995 ? 1 : 0)}%`;
}
