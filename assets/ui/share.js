// Shows the link in full, which only the browser knows, and copies it.

function shareShow() {
  const link = props.value?.link ?? "";
  const whole = link ? new URL(link, window.location.href).href : "";
  element.querySelector(".share-url").value = whole;
  element.querySelector(".share-said").textContent = "";
}

element.querySelector(".share-copy").addEventListener("click", async () => {
  const field = element.querySelector(".share-url");
  let copied = false;
  try {
    await navigator.clipboard.writeText(field.value);
    copied = true;
  } catch {
    field.select(); // without a secure address there is no clipboard
    copied = document.execCommand("copy");
  }
  element.querySelector(".share-said").textContent = copied ? "Copied." : "Press Ctrl+C to copy.";
});
watch("value", shareShow);
shareShow();
