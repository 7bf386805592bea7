// What a search found, and whether one adapter fits. Strings from outside only become textContent.

function finderButton(words, label, act) {
  const button = makeNode("button", "quiet-button", words);
  button.type = "button";
  button.setAttribute("aria-label", label);
  button.addEventListener("click", act);
  return button;
}

function finderRow(each) {
  const row = makeNode("li");
  const words = makeNode("div", "finder-words");
  words.append(makeNode("strong", "", each.id), makeNode("span", "", each.facts));
  row.append(words, finderButton("Check", `Check ${each.id}`, () => trigger("select", { source: each.id })));
  return row;
}

function finderReport(report) {
  const node = makeNode("article", "report");
  node.dataset.ok = String(report.ok);
  node.append(makeNode("p", "", report.headline));
  const reasons = makeNode("ul");
  reasons.append(...report.reasons.map((each) => makeNode("li", "", each)));
  const list = makeNode("dl");
  for (const [heading, text] of report.facts) {
    const row = makeNode("div");
    row.append(makeNode("dt", "", heading), makeNode("dd", "", text));
    list.append(row);
  }
  node.append(reasons, list);
  if (report.add) {
    const add = finderButton("Add it", "Download and add this adapter", () => trigger("apply", {}));
    add.classList.add("finder-add");
    node.append(add);
  }
  return node;
}

function finderShow() {
  const value = props.value ?? {};
  const message = element.querySelector(".finder-message");
  message.textContent = value.message ?? "";
  message.classList.toggle("fault", Boolean(value.error));
  const bar = element.querySelector(".finder-progress");
  bar.hidden = !value.busy;
  if (value.total) {
    bar.max = value.total;
    bar.value = value.done;
    message.textContent += ` ${(value.done / 1e6).toFixed(1)} of ${(value.total / 1e6).toFixed(1)} MB`;
  } else bar.removeAttribute("value");
  element.querySelector(".finder-found").replaceChildren(...(value.found ?? []).map(finderRow));
  element.querySelector(".finder-report").replaceChildren(...(value.report ? [finderReport(value.report)] : []));
}

watch("value", finderShow);
finderShow();
