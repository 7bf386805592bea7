// The header, and the menu of bases: it loads one through /bases and goes to its page. Strings from outside only
// become textContent.

const POLL = 400; // milliseconds between two looks at a base that is being loaded
const PATIENCE = 3000; // after which a page that does not answer any more is left as it stood at the click
const page = props.page;
const find = (selector) => element.querySelector(selector);
const panel = find(".base-panel");
const opener = find(".base-open");
const root = new URL(page.root ?? "", `${(window.gradio_config?.root ?? window.location.href.split(/[?#]/)[0]).replace(/\/+$/, "")}/`);

// The base that was chosen. way: the address of its page, as the server made it at the click. linked: by a link,
// which stays as it is. turn: of the answers, the last one that was asked for.
let chosen = null;
let bases = [];
let turn = 0;

async function ask(body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(new URL("bases", root), body ? post : {}).catch(() => null);
  if (!answer) throw new Error("The server does not answer; try again.");
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.detail ?? "The server cannot load it; try again.");
  bases = found.bases;
  return bases;
}

function say(words, { fault = false, stage = null, ready = false } = {}) {
  find(".base-status").hidden = !words;
  find(".base-status").classList.toggle("base-fault", fault);
  find(".base-said").textContent = words;
  const bar = find(".base-progress");
  bar.hidden = !stage;
  if (typeof stage?.share === "number") bar.value = stage.share;
  else bar.removeAttribute("value");
  find(".base-go").hidden = !ready;
  find(".base-dismiss").hidden = !fault;
}

// --- the panel

function stateOf(each) {
  if (each.name === page.name) return "This page";
  if (each.reason) return each.reason;
  if (each.stage) return `${each.stage.words}…`;
  if (each.fault) return each.fault;
  if (each.loaded) return "Loaded";
  return each.here ? "Loads in a few seconds" : "Is fetched first";
}

function option(each) {
  const button = makeNode("button", "base-option");
  button.type = "button";
  button.dataset.name = each.name;
  if (each.name === page.name) button.setAttribute("aria-current", "page");
  if (each.reason) button.setAttribute("aria-disabled", "true");
  button.append(makeNode("b", "", each.label), makeNode("span", "base-what", each.facts));
  button.append(makeNode("span", each.fault ? "base-state base-fault" : "base-state", stateOf(each)));
  button.addEventListener("click", () => choose(each));
  const row = makeNode("li");
  row.append(button);
  return row;
}

function showList() {
  const focused = document.activeElement?.dataset?.name;
  const last = (each) => Number(Boolean(each.reason)); // those that cannot be chosen
  find(".base-list").replaceChildren(...bases.toSorted((one, other) => last(one) - last(other)).map(option));
  if (focused) find(`.base-option[data-name="${focused}"]`)?.focus();
}

async function show(open) {
  panel.hidden = !open;
  opener.setAttribute("aria-expanded", String(open));
  if (!open) return;
  find(".base-notice").hidden = true;
  if (find(".base-status").classList.contains("base-fault")) say(""); // the list has it
  try {
    await ask();
    showList();
  } catch (fault) {
    say(fault.message, { fault: true });
  }
}

function showNotice(node, notice) {
  node.replaceChildren(notice.text, " ");
  if (!/^https?:\/\//.test(notice.url)) return;
  const link = makeNode("a", "", "Read the terms");
  link.href = notice.url;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  node.append(link);
}

// --- choosing

function choose(each, linked = false) {
  if (each.reason) return linked ? say(`${each.label}: ${each.reason}`, { fault: true }) : undefined;
  if (each.name === page.name) return void show(false);
  if (!each.notice || each.here || each.loaded) return void load(each, linked, false);
  panel.hidden = false;
  opener.setAttribute("aria-expanded", "true");
  showList();
  find(".base-notice").hidden = false;
  showNotice(find(".base-notice p"), each.notice);
  find(".base-agree").onclick = () => load(each, linked, true);
  find(".base-agree").focus();
}

async function load(each, linked, agreed) {
  const wanted = (chosen = { name: each.name, label: each.label, linked, way: null });
  if (panel.contains(document.activeElement)) opener.focus();
  show(false);
  say(`${each.label}: asking for it…`, { stage: {} });
  if (!linked) trigger("select", { name: each.name, turn: ++turn });
  let news = { name: each.name, agreed };
  while (chosen === wanted) {
    const failed = await ask(news).then(() => "", (fault) => fault.message);
    if (chosen !== wanted) return; // another base was chosen meanwhile
    if (failed) return say(`${each.label}: ${failed}`, { fault: true });
    news = null;
    const now = bases.find(({ name }) => name === each.name);
    if (now.loaded) return ready();
    if (!now.stage) return say(`${each.label}: ${now.fault || "it was unloaded again; choose it once more."}`, { fault: true });
    say(`${each.label}: ${now.stage.words}…`, { stage: now.stage });
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
}

function ready() {
  const phase = document.querySelector(".live-status")?.dataset.phase;
  // A text that is being written is not left: its visitor goes when they like.
  if (["reading", "writing", "waiting", "fusing"].includes(phase)) return say(`${chosen.label} is ready.`, { ready: true });
  leave();
}

function leave() {
  const { name, label, linked, way } = chosen;
  say(`${label}: opening its page…`, { stage: {} });
  const { path } = bases.find((each) => each.name === name);
  if (linked) {
    const query = new URLSearchParams(window.location.search);
    query.delete("base");
    return window.location.replace(new URL(`${path}?${query}`, root));
  }
  chosen.leaving = true;
  const own = bases.find((each) => each.name === page.name);
  if (!own?.loaded) return go(way ?? path); // it had to make room
  trigger("select", { name, turn: ++turn });
  setTimeout(() => go(chosen.way ?? path), PATIENCE);
}

function go(way) {
  const address = new URL(way, root);
  const theme = new URLSearchParams(window.location.search).get("__theme");
  if (theme) address.searchParams.set("__theme", theme);
  window.location.assign(address);
}

async function told() {
  const { asked, name, way, turn: answered } = props.value ?? {};
  if (asked) {
    try {
      const each = (await ask()).find((found) => found.name === asked);
      if (!each) throw new Error("The link is for a base that this server has not; the page opens as usual.");
      choose(each, true);
    } catch (fault) {
      say(fault.message, { fault: true });
    }
  } else if (chosen?.name === name && way !== undefined) {
    chosen.way = way;
    if (chosen.leaving && answered === turn) go(way);
  }
}

// --- what is there

document.body.classList.toggle("unrecorded", !page.recorded);
element.querySelectorAll("circle").forEach((dot, place) => dot.setAttribute("fill", page.colors[place]));
find(".base-facts").textContent = page.facts;
find(".base-only").textContent = page.base;
find(".base-name").textContent = page.base;
if (page.notice) {
  find(".base-terms").hidden = false;
  showNotice(find(".base-terms"), page.notice);
}
if (page.root !== null) {
  find(".base-only").hidden = true;
  opener.hidden = false;
  opener.addEventListener("click", () => show(panel.hidden));
  find(".base-go").addEventListener("click", leave);
  find(".base-dismiss").addEventListener("click", () => {
    say("");
    opener.focus();
  });
  find(".base-refuse").addEventListener("click", () => {
    show(false);
    opener.focus();
  });
  find(".base-choice").addEventListener("keydown", (event) => {
    if (panel.hidden) return;
    const options = [...panel.querySelectorAll(".base-option")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") {
      event.stopPropagation(); // elsewhere it stops a text
      show(false);
      opener.focus();
    } else if (step && options.length) {
      event.preventDefault();
      const place = options.indexOf(document.activeElement);
      options[place < 0 ? (step > 0 ? 0 : options.length - 1) : (place + step + options.length) % options.length].focus();
    }
  });
  document.addEventListener("click", (event) => {
    if (!panel.hidden && !find(".base-choice").contains(event.target) && event.target.isConnected) show(false);
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) say(""); // back from another base's page
  });
  watch("value", told);
  told();
}
