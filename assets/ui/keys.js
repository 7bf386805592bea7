() => {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    // Leaving the field first makes gradio take over a number that is still being typed.
    document.activeElement?.blur();
    document.querySelector("button#generate")?.click();
  });
}
