// The list of lessons. Strings only become textContent.

function lessonsShow() {
  const { lessons } = props.value ?? { lessons: [] };
  const cards = lessons.map((lesson, place) => {
    const card = makeNode("article", "lesson-card");
    const head = makeNode("h3", "", `${place + 1}. ${lesson.title}`);
    if (lesson.passed) head.append(makeNode("span", "lesson-passed", "✓ passed"));
    const button = makeNode("button", "quiet-button", lesson.passed ? "Again" : "Start");
    button.type = "button";
    button.setAttribute("aria-label", `Start lesson ${place + 1}: ${lesson.title}`);
    button.addEventListener("click", () => trigger("select", { name: lesson.name }));
    card.append(head, makeNode("p", "", lesson.teaser), button);
    return card;
  });
  element.querySelector(".lessons").replaceChildren(...cards);
}

// The guide's tables scroll on a phone, so a keyboard has to reach them.
function reachTables() {
  for (const table of document.querySelectorAll("#guide table:not([tabindex])")) table.tabIndex = 0;
}
new MutationObserver(reachTables).observe(element.closest(".gradio-container") ?? document.body, { subtree: true, childList: true });
reachTables();
watch("value", lessonsShow);
lessonsShow();
