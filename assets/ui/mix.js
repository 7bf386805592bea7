() => {
  // Sliders at 0 fold away but for the first few; "more adapters" shows them all, with a box to filter them.
  // Gradio keeps the value of a slider in its handle's style, so that is what is watched.
  const MANY = 9; // sliders from which a filter helps
  const mix = document.querySelector("#mix");
  const button = document.querySelector("#more-adapters");
  if (!mix || !button) return;
  const filter = document.createElement("input");
  filter.type = "search";
  filter.id = "filter-adapters";
  filter.placeholder = "Filter adapters";
  filter.setAttribute("aria-label", "Filter adapters by name");
  filter.hidden = true;
  button.before(filter);
  const idle = (slider) => Number(slider.querySelector("input[type=range]")?.value ?? 0) === 0;
  const refresh = () => {
    const all = document.body.classList.contains("all-adapters");
    const wanted = all ? filter.value.trim().toLowerCase() : "";
    let folded = 0;
    const sliders = mix.querySelectorAll(".weight");
    for (const slider of sliders) {
      const away = !slider.classList.contains("lead") && idle(slider);
      const other = wanted !== "" && idle(slider) && !slider.textContent.toLowerCase().includes(wanted);
      slider.classList.toggle("idle", away);
      slider.classList.toggle("filtered", other);
      folded += away ? 1 : 0;
    }
    button.hidden = folded === 0;
    filter.hidden = !all || sliders.length < MANY;
    const words = all ? "Fewer adapters" : `+ ${folded} more adapters`;
    if (button.textContent !== words) button.textContent = words; // each change is a mutation that is observed
    button.setAttribute("aria-expanded", String(all));
  };
  button.addEventListener("click", () => {
    // On the body: Gradio gives the id of a group to two elements.
    document.body.classList.toggle("all-adapters");
    if (!document.body.classList.contains("all-adapters")) filter.value = "";
    refresh();
  });
  filter.addEventListener("input", refresh);
  mix.addEventListener("change", refresh);
  new MutationObserver(refresh).observe(mix, { subtree: true, childList: true, attributeFilter: ["style"] });
  refresh();
}
