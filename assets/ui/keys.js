() => {
  // What is typed into the list of methods filters it; without this it would be added to the name that stands there.
  document.addEventListener("click", (event) => {
    if (event.target.matches?.("#method input")) event.target.select();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      for (const stop of document.querySelectorAll("button#stop, button#compare-stop")) {
        if (!stop.disabled && stop.offsetParent) stop.click();
      }
      return;
    }
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    // Leaving the field first makes gradio take over a number that is still being typed.
    document.activeElement?.blur();
    const go = [...document.querySelectorAll("button#generate, button#compare-go")].find((each) => each.offsetParent);
    go?.click();
  });
}
