// Makes a DOM node. Text from outside only becomes textContent.

function makeNode(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// A dot in an adapter's colour; the dark theme has a lighter twin of each (adapterColor).
function makeChip(color) {
  const chip = makeNode("span", "live-chip");
  chip.style.background = adapterColor(color);
  return chip;
}

function isDark() {
  return document.body.classList.contains("dark") || document.documentElement.classList.contains("dark");
}

// Adapters keep their hue everywhere; on dark ground they are mixed with white, for contrast.
function adapterColor(hex) {
  return isDark() ? `color-mix(in srgb, ${hex} 68%, white)` : hex;
}

function signed(nats, digits = 1) {
  return `${nats >= 0 ? "+" : "−"}${Math.abs(nats).toFixed(digits)}`;
}

// Hands the visitor a file that the page made.
function saveFile(blob, name) {
  const link = makeNode("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Gives the value of a run to show. What was on its way when Stop was pressed may come after the last picture and
// is passed over: after a value that is not busy, a run begins with a click (RUN_BEGINS).
function inOrder(read) {
  let shown = { busy: true };
  return () => {
    const value = read();
    if (!value.busy || value.begins || shown.busy) shown = value;
    return shown;
  };
}
