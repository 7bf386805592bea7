() => {
  // Sliders at 0 fold away but for the first few; "more adapters" shows them all. Gradio keeps the value of a
  // slider in its handle's style, so that is what is watched.
  const mix = document.querySelector("#mix");
  const button = document.querySelector("#more-adapters");
  if (!mix || !button) return;
  const idle = (slider) => Number(slider.querySelector("input[type=range]")?.value ?? 0) === 0;
  const refresh = () => {
    let folded = 0;
    for (const slider of mix.querySelectorAll(".weight")) {
      const away = !slider.classList.contains("lead") && idle(slider);
      slider.classList.toggle("idle", away);
      folded += away ? 1 : 0;
    }
    const all = document.body.classList.contains("all-adapters");
    button.hidden = folded === 0;
    const words = all ? "Fewer adapters" : `+ ${folded} more adapters`;
    if (button.textContent !== words) button.textContent = words; // each change is a mutation that is observed
    button.setAttribute("aria-expanded", String(all));
  };
  button.addEventListener("click", () => {
    // On the body: Gradio gives the id of a group to two elements.
    document.body.classList.toggle("all-adapters");
    refresh();
  });
  mix.addEventListener("change", refresh);
  new MutationObserver(refresh).observe(mix, { subtree: true, childList: true, attributeFilter: ["style"] });
  refresh();
}
