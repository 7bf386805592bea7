() => {
  // What a link says comes from the server and would undo what was moved before it is here, so nothing can be moved
  // until then. A server that does not answer keeps nobody out.
  const LONGEST = 20000; // ms
  const tabs = document.querySelector("#tabs");
  if (!tabs || !new URLSearchParams(window.location.search).has("recipe")) return;
  tabs.inert = true; // the event after the link's own sets it back
  window.setTimeout(() => (tabs.inert = false), LONGEST);
}
