// The gallery: a card for each adapter. Strings from outside only become textContent.

function galleryButton(words, label, event, name) {
  const button = makeNode("button", "quiet-button", words);
  button.type = "button";
  button.setAttribute("aria-label", label);
  button.addEventListener("click", () => trigger(event, { name }));
  return button;
}

function galleryCard(card) {
  const node = makeNode("article", "card");
  node.style.setProperty("--left", adapterColor(card.color));
  const head = makeNode("h3");
  head.append(makeChip(card.color), makeNode("span", "card-title", card.label));
  if (card.own) head.append(makeNode("span", "card-own", "yours"));
  node.append(head, makeNode("p", "", card.blurb));
  const list = makeNode("dl");
  for (const [heading, text] of card.facts) {
    const row = makeNode("div");
    row.append(makeNode("dt", "", heading), makeNode("dd", "", text));
    list.append(row);
  }
  const actions = makeNode("div", "card-actions");
  actions.append(galleryButton("Hear it alone", `Hear ${card.label} alone`, "select", card.name));
  if (card.own) actions.append(galleryButton("Remove", `Remove ${card.label}`, "delete", card.name));
  node.append(list, actions);
  return node;
}

function galleryShow() {
  const value = props.value ?? { cards: [], budget: "" };
  element.querySelector(".gallery-budget").textContent = value.budget;
  element.querySelector(".cards").replaceChildren(...value.cards.map(galleryCard));
}

new MutationObserver(galleryShow).observe(document.body, { attributeFilter: ["class"] });
watch("value", galleryShow);
galleryShow();
