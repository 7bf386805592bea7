// Draws the columns of a comparison. Strings from outside only become textContent.

const compareKinds = { csv: "text/csv", json: "application/json", md: "text/markdown" };

function compareColumn(column, index, prompt) {
  const card = makeNode("article", `compare-column${column.best ? " compare-best" : ""}`);
  const head = makeNode("h3");
  const dots = makeNode("span", "compare-dots");
  dots.append(...column.colors.map(makeChip));
  const use = makeNode("button", "compare-use", "Use");
  use.type = "button";
  use.title = "Load this column into Compose";
  use.setAttribute("aria-label", `Load ${column.title} into Compose`);
  use.addEventListener("click", () => trigger("select", { index }));
  head.append(dots, makeNode("span", "compare-title", column.title), use);
  card.append(head);
  if (column.best) card.append(makeNode("span", "compare-badge", "best"));
  if (column.likeliest != null) {
    const said = makeNode("p", "compare-likeliest", `Likeliest of ${column.texts.length}`);
    said.title = "The text that the column's own adapters find likeliest to be what was asked, less what the base finds odd about it.";
    card.append(said);
  }
  const text = makeNode("p", "compare-text");
  if (column.fault) text.append(makeNode("span", "compare-fault", column.fault));
  else text.append(makeNode("span", "compare-prompt", prompt), column.text);
  card.append(text);
  if (column.texts.length > 1) {
    const more = makeNode("details");
    more.append(makeNode("summary", "", `${column.texts.length} texts`));
    more.append(...column.texts.map((each, place) => {
      const one = makeNode("p", "compare-text", `${prompt}${each}`);
      if (place === column.likeliest) one.prepend(makeNode("span", "compare-mark", "likeliest "));
      return one;
    }));
    card.append(more);
  }
  const list = makeNode("dl");
  for (const cell of column.cells) {
    const row = makeNode("div", cell.best ? "compare-top" : "");
    row.title = cell.hint;
    const value = makeNode("dd", "", cell.value || "–");
    if (cell.color) value.prepend(makeChip(cell.color));
    if (cell.best) value.append(makeNode("span", "compare-star", "★"), makeNode("span", "next-said", "best of the row"));
    row.append(makeNode("dt", "", cell.label), value);
    list.append(row);
  }
  card.append(list);
  return card;
}

const compareValue = inOrder(() => props.value ?? {});

function compareShow() {
  const value = { columns: [], message: "", ...compareValue() };
  const columns = element.querySelector(".compare-columns");
  columns.style.setProperty("--columns", Math.max(1, Math.min(value.columns.length, value.columns.length > 6 ? 4 : 6)));
  columns.replaceChildren(...value.columns.map((column, index) => compareColumn(column, index, value.prompt)));
  const message = element.querySelector(".compare-message");
  message.textContent = value.message;
  message.classList.toggle("compare-fault", Boolean(value.error));
  element.querySelector(".compare-files").hidden = !value.files?.csv;
}

for (const button of element.querySelectorAll("[data-file]")) {
  button.addEventListener("click", () => {
    const kind = button.dataset.file;
    saveFile(new Blob([compareValue().files[kind]], { type: compareKinds[kind] }), `comparison.${kind}`);
  });
}
new MutationObserver(compareShow).observe(document.body, { attributeFilter: ["class"] });
watch("value", compareShow);
compareShow();
