// The page: its state is its address; what is typed or chosen changes the address, and that asks the server.

import { asksSame, read, write } from "./address.js";
import { Problem, ask, useToken } from "./api.js";
import * as documents from "./document.js";
import { byId, counted, el } from "./dom.js";
import * as filters from "./filters.js";
import * as hits from "./hits.js";
import { MatchMap } from "./map.js";

const TYPING = 140; // ms without a key before what was typed is searched for
const SETTLED = 1500; // ms after which typing on is a step of its own for the back button

const map = new MatchMap();
const query = byId("query");
let state = read();
query.value = state.q;
let indexes = [];
let found = null; // the last answer
let asking = new AbortController();
let timer = 0;
let typedAt = 0;

const index = () => indexes.find(({ name }) => name === state.index) ?? indexes[0];

// From one state to the next ---------------------------------------------------------------------------------------

/** Change the state and with it the address; push: as a step that the back button takes back. */
function go(changes, push = true) {
  const before = state;
  state = { ...state, ...changes };
  const address = write(state);
  if (address !== location.pathname + location.search) {
    history[push ? "pushState" : "replaceState"]({ inside: push || history.state?.inside }, "", address);
  }
  return shown(before);
}

/** What is chosen goes with what has been typed by now. */
function choose(changes, push = true) {
  clearTimeout(timer);
  return go({ q: query.value, k: 10, doc: "", ...changes }, push);
}

/** Bring the page to the state. */
async function shown(before) {
  if (indexes.length === 0) return; // `start` does it
  document.title = state.q ? `${state.q} · Latewood` : "Latewood";
  document.querySelector(`#modes [value="${state.mode}"]`).checked = true;
  byId("index").value = index()?.name ?? "";
  filters.fill(state);
  try {
    if (!before || !asksSame(before, state)) await search();
    if (state.doc) await openDocument();
    else documents.hide();
  } catch (error) {
    if (error.name !== "AbortError") wrong(error);
  }
}

async function search() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const { name, metadata_keys: keys } = index();
  byId("alert").replaceChildren();
  if (!state.q.trim()) return answered(null);
  byId("results").setAttribute("aria-busy", "true");
  try {
    const filter = filters.expression(state, keys);
    const body = { query: state.q, k: state.k, mode: state.mode, filter, explain: true, text: false };
    const path = `indexes/${encodeURIComponent(name)}/search`;
    answered(await ask(path, { body, signal, busy: (line) => { byId("status").textContent = line; } }).catch(nothingYet));
  } finally {
    if (!signal.aborted) byId("results").setAttribute("aria-busy", "false");
  }
  return undefined;
}

/** An answer without hits where nothing is encoded yet, which the server refuses to search; else the error. */
async function nothingYet(error) {
  if (error.status !== 422 || state.mode === "lexical") throw error;
  const { documents: all, unencoded } = await ask(`indexes/${encodeURIComponent(index().name)}`);
  if (!all || unencoded < all) throw error;
  return { hits: [], documents: all, unencoded, mode: state.mode };
}

async function openDocument() {
  const hit = found?.hits.find(({ doc_id: id }) => id === state.doc);
  try {
    await documents.show(index().name, state.doc, { hit, query: state.q, close: closeDocument });
    map.point(map.held);
  } catch (error) {
    documents.hide();
    throw error;
  }
}

/** Back to the hits: by the step that led here, or, where a link did, to the same address without the document. */
function closeDocument() {
  if (!state.doc) return;
  if (history.state?.inside) history.back();
  else go({ doc: "" }, false);
}

// What is said -----------------------------------------------------------------------------------------------------

function answered(answer) {
  found = answer;
  const some = answer?.hits ?? [];
  map.show(hits.layOut(some, state.q, (doc) => write({ ...state, doc })));
  byId("more").hidden = some.length < state.k || state.k >= 1000;
  if (answer) {
    const { encode = 0, search: ranking = 0 } = answer.seconds ?? {};
    const ms = Math.max(1, Math.round((encode + ranking) * 1000));
    byId("status").textContent = `${counted(some.length, "hit")} in ${counted(answer.documents, "document")} · ${ms} ms`;
  } else byId("status").textContent = "";
  byId("remark").replaceChildren(...(answer ? [some.length ? progress(answer) : emptiness(answer)] : about()).filter(Boolean));
}

/** How much of the index vectors find, unless it is all. */
function progress({ documents: all, unencoded, mode = state.mode }) {
  if (!unencoded || !all) return null;
  const bar = el("progress", { max: all, value: all - unencoded, "aria-label": "Encoded" });
  const rest = mode === "late" ? "Late does not find the others yet; hybrid and words do, by their words." : "The others are found by their words alone.";
  return el("p", { class: "encoded" }, bar, ` ${(all - unencoded).toLocaleString("en")} of ${counted(all, "document")} are encoded. ${rest}`);
}

/** What it means that nothing was found, and what may be done. */
function emptiness({ documents: all, unencoded }) {
  const narrowed = Object.keys(state.where).length > 0 || state.filter !== "";
  const [means, offer, changes] =
    all === 0 ? ["This index has no documents."]
      : state.mode !== "lexical" && unencoded === all ? ["Nothing is encoded yet, so nothing can be found by meaning.", "Search by words", { mode: "lexical" }]
      : narrowed ? [state.mode === "lexical" ? "No document that meets the filters has a word of this query." : "No document meets the filters.", "Clear the filters", { where: {}, filter: "" }]
      : state.mode === "lexical" ? ["No document has a word of this query. Late also finds what is said in other words.", "Search by meaning", { mode: "late" }]
      : ["No document was found."];
  return el("div", { class: "empty" }, el("p", {}, means), offer && el("button", { type: "button", click: () => choose(changes) }, offer));
}

/** The page before there is a query. */
function about() {
  const { name, documents: all, passages, tokens, unencoded } = index();
  return [
    el("h2", {}, name),
    el("p", {}, `${counted(all, "document")}, ${counted(passages, "passage")}, ${counted(tokens, "token vector")}.`),
    progress({ documents: all, unencoded }),
    el("p", {}, "Hits come as you type. In each, the stronger the tint of a word, the more of the score it gave; " +
      "point at a word of your query to see what it matched, and for how much."),
  ];
}

function wrong(error) {
  if (!(error instanceof Problem)) throw error;
  byId("status").textContent = "";
  byId("alert").replaceChildren(el("p", {}, error.message), error.status === 401 ? tokenForm()
    : el("button", { type: "button", click: () => start() }, "Try again"));
}

function tokenForm() {
  const input = el("input", { type: "password", autocomplete: "off", "aria-label": "Token" });
  const submit = (event) => {
    event.preventDefault();
    useToken(input.value.trim());
    start();
  };
  return el("form", { submit }, input, el("button", {}, "Use this token"));
}

// What is done -----------------------------------------------------------------------------------------------------

query.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => {
    const push = Date.now() - typedAt > SETTLED;
    typedAt = Date.now();
    choose({}, push);
  }, TYPING);
});
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  choose({});
});
byId("modes").addEventListener("change", ({ target }) => choose({ mode: target.value }));
byId("index").addEventListener("change", ({ target }) => {
  const { metadata_keys: keys } = indexes.find(({ name }) => name === target.value);
  filters.layOut(keys);
  choose({ index: target.value, where: {}, filter: "" });
});
byId("filters-button").addEventListener("click", () => filters.open());
byId("filters").addEventListener("change", () => choose(filters.taken()));
byId("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  choose(filters.taken());
});
byId("filters").addEventListener("reset", (event) => {
  event.preventDefault();
  choose({ where: {}, filter: "" });
});
byId("more").addEventListener("click", async () => {
  const n = found.hits.length;
  await go({ k: state.k + 10 }, false);
  document.querySelectorAll("#hits h2 a")[n]?.focus();
});
byId("hits").addEventListener("click", (event) => {
  const link = event.target.closest("a[data-doc]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go({ doc: link.dataset.doc });
});
byId("document").addEventListener("cancel", (event) => {
  event.preventDefault();
  closeDocument();
});
byId("document").addEventListener("click", ({ target, currentTarget }) => {
  if (target === currentTarget) closeDocument(); // beside it
});
window.addEventListener("popstate", () => {
  const before = state;
  state = read();
  query.value = state.q;
  shown(before);
});

const STEPS = { ArrowDown: 1, ArrowUp: -1, ArrowLeft: -1, ArrowRight: 1 };

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || documents.isOpen()) return;
  const vertical = key === "ArrowDown" || key === "ArrowUp";
  const sideways = key === "ArrowLeft" || key === "ArrowRight";
  const onHit = target.closest("#hits") !== null;
  const onToken = target.closest("#tokens") !== null;
  let done = true;
  if (key === "/" && !target.closest("input, select, textarea")) query.select();
  else if (key === "Escape" && target === query) query.value = "", query.dispatchEvent(new Event("input"));
  else if (key === "Escape" && map.held !== null) map.hold(null);
  else if (key === "Escape") query.focus();
  else if (vertical && (onHit || ((target === query || onToken) && key === "ArrowDown"))) {
    if (!hits.walk(STEPS[key]) && key === "ArrowUp") query.focus();
  } else if (sideways && onHit) map.step(STEPS[key]);
  else if (sideways && onToken) map.walk(target, STEPS[key]);
  else done = false;
  if (done) event.preventDefault();
});

async function start() {
  byId("alert").replaceChildren();
  try {
    ({ indexes } = await ask("indexes"));
  } catch (error) {
    return wrong(error);
  }
  byId("index").replaceChildren(...indexes.map(({ name }) => el("option", { value: name }, name)));
  byId("index").hidden = indexes.length < 2;
  filters.layOut(index().metadata_keys);
  await shown(null);
  if (!state.doc) query.focus();
  return undefined;
}

start();
