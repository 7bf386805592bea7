// A lesson beside the real controls. Its formula has the numbers of the sliders as they turn.

// Each adapter's weight as its slider says it, with its label and colour.
function lessonWeights() {
  const found = [];
  for (const slot of props.value.slots) {
    const slider = document.getElementById(slot.key);
    const shown = slider && !slider.closest(".hidden") && slider.offsetParent;
    if (!shown) continue;
    const value = Number(slider.querySelector("input[type=range]")?.value ?? 0);
    if (!value) continue;
    const pole = slot.names.length === 2 && value > 0 ? 1 : 0;
    const weight = slot.names.length === 2 ? Math.abs(value) : value;
    found.push({ name: slot.names[pole], label: slot.labels[pole], color: slot.colors[pole], weight });
  }
  return found;
}

function lessonTerm(sign, number, words, each) {
  const term = makeNode("span", "lesson-term");
  term.append(` ${sign} `, makeNode("b", "", number), ` ${words} `);
  if (each) {
    const label = makeNode("span", "lesson-label", each.label);
    label.style.setProperty("--shade", adapterColor(each.color));
    term.append(label);
  }
  return term;
}

function lessonSum(weights) {
  const terms = weights.map((each) => lessonTerm(each.weight < 0 ? "−" : "+", Math.abs(each.weight).toFixed(2), "· B A x", each));
  return ["y = W₀ x", ...(terms.length ? terms : [" + nothing: the base alone"])];
}

const LESSON_FORMULAS = {
  sum: lessonSum,
  merge(weights) {
    const parts = lessonSum(weights);
    if (weights.length < 2) return parts;
    const cross = Math.sqrt(Math.abs(weights[0].weight * weights[1].weight)).toFixed(2);
    return [...parts, lessonTerm("+", cross, "· (B₁A₂ + B₂A₁) x if the factors are merged")];
  },
  share(weights) {
    const total = weights.reduce((sum, each) => sum + Math.abs(each.weight), 0);
    const parts = weights.map((each) => lessonTerm("", `${Math.round((100 * Math.abs(each.weight)) / total)}%`, "of the weight:", each));
    return ["Sliders: ", ...(parts.length ? parts : ["all at 0"]), " — but loudness is weight times what each adapter adds"];
  },
  kl(weights) {
    return ["αᵢ = KL(p ‖ qᵢ) / Σⱼ KL(p ‖ qⱼ) in each layer; gate of each = N · αᵢ · slider:", ...weights.map((each) => lessonTerm("", `${weights.length} · α · ${each.weight.toFixed(2)}`, "", each))];
  },
  contrast(weights) {
    const field = document.querySelector("#contrast input[type=number], #contrast input[type=range]");
    const share = field && field.offsetParent ? Number(field.value) : 0;
    const parts = lessonSum(weights);
    for (const each of weights) {
      const others = props.value.opposites[each.name] ?? 0;
      if (others && share) parts.push(lessonTerm("−", ((share * each.weight) / others).toFixed(2), others === 1 ? "· its opposite of" : `· each of ${others} opposites of`, each));
    }
    return share ? parts : [...parts, " (nothing is subtracted yet)"];
  },
};

function lessonFormulaShow() {
  const kind = props.value?.formula;
  if (!kind) return;
  element.querySelector(".lesson-formula").replaceChildren(...LESSON_FORMULAS[kind](lessonWeights()));
}

function lessonShow() {
  const value = props.value ?? {};
  if (!value.lesson) return;
  element.querySelector(".lesson-place").textContent = value.place;
  element.querySelector("h2").textContent = value.title;
  element.querySelector(".lesson-words").textContent = value.words;
  element.querySelector(".lesson-task span").textContent = value.task;
  const verdict = element.querySelector(".lesson-verdict");
  verdict.textContent = value.verdict ? `${value.passed ? "✓ Passed. " : "Not yet. "}${value.verdict}` : "";
  verdict.dataset.passed = String(value.passed);
  const next = element.querySelector(".lesson-next");
  next.hidden = !(value.passed && value.next);
  next.textContent = value.next ? `Next: ${value.next.title}` : "";
  lessonFormulaShow();
}

element.querySelector(".lesson-again").addEventListener("click", () => trigger("select", { name: props.value.lesson }));
element.querySelector(".lesson-next").addEventListener("click", () => trigger("select", { name: props.value.next.name }));
element.querySelector(".lesson-leave").addEventListener("click", () => trigger("delete", {}));
document.addEventListener("input", (event) => {
  if (event.target.closest?.("#mix, #method-group")) requestAnimationFrame(lessonFormulaShow);
});
// Gradio keeps a slider's value in its handle's style, and shows a method's own controls when it is chosen.
for (const id of ["mix", "method-group"]) {
  const group = document.getElementById(id);
  const changes = { subtree: true, childList: true, attributeFilter: ["style", "class"] };
  if (group) new MutationObserver(() => requestAnimationFrame(lessonFormulaShow)).observe(group, changes);
}
new MutationObserver(lessonFormulaShow).observe(document.body, { attributeFilter: ["class"] });
watch("value", lessonShow);
lessonShow();
