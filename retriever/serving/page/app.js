// The page: its state is its address; what is typed or chosen changes the address, and that asks the server.

import { asksSame, read, write } from "./address.js";
import { Problem, ask, useToken } from "./api.js";
import * as documents from "./document.js";
import { byId, counted, el } from "./dom.js";
import * as filters from "./filters.js";
import * as hits from "./hits.js";
import { MatchMap } from "./map.js";

const TYPING = 140; // ms without a key before what was typed is searched for
const WATCHING = 2000; // ms after which it is looked again how much is encoded
const SETTLED = 2000; // ms after which typing on is a step of its own for the back button

const map = new MatchMap();
const query = byId("query");
let state = read();
query.value = state.q;
let indexes = [];
let found = null; // the last answer
let asking = new AbortController();
let timer = 0;
let watching = 0;
let typedAt = 0; // 0: what is typed next is another query

const index = () => indexes.find(({ name }) => name === state.index) ?? indexes[0];
/** What hits are ranked by: what was chosen, or what the server does where it is told nothing. */
const mode = () => state.mode || index().mode;
const here = () => `indexes/${encodeURIComponent(index().name)}`; // its path

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

/** What has been typed is searched for; a query is one step back, however many searches it took. */
function typed(isWhole) {
  const push = Date.now() - typedAt > SETTLED;
  typedAt = isWhole ? 0 : Date.now();
  return choose({}, push);
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
  document.querySelector(`#modes [value="${mode()}"]`).checked = true;
  byId("index").value = index().name;
  if (before?.index !== state.index) filters.layOut(index().metadata_keys);
  if (filters.fill(state) && !before) filters.open(true);
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
  const busy = (is) => byId("results").setAttribute("aria-busy", String(is));
  byId("alert").replaceChildren();
  busy(state.q.trim() !== "");
  if (!state.q.trim()) return answered(null);
  try {
    const filter = filters.expression(state, index().metadata_keys);
    const body = { query: state.q, k: state.k, mode: mode(), filter, explain: true, text: false };
    const asked = ask(`${here()}/search`, { body, signal, busy: (line) => byId("status").replaceChildren(line) });
    answered(await asked.catch((error) => nothingYet(error, signal)));
  } catch (error) {
    if (error.name !== "AbortError") answered({ hits: [] }); // what is still there answers another query
    throw error;
  } finally {
    if (!signal.aborted) busy(false);
  }
  return undefined;
}

/** An answer without hits where nothing is encoded yet, which the server refuses to search; else the error. */
async function nothingYet(error, signal) {
  if (error.status !== 422 || mode() === "lexical") throw error;
  const { documents: all, unencoded } = await ask(here(), { signal });
  if (!all || unencoded < all) throw error;
  return { hits: [], documents: all, unencoded };
}

async function openDocument() {
  const id = state.doc;
  try {
    const document = await ask(`${here()}/documents/${encodeURIComponent(id)}`);
    if (state.doc !== id) return; // closed before it came
    const hit = found?.hits.find(({ doc_id: one }) => one === id);
    documents.show(document, { hit, query: state.q, close: closeDocument });
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
  const { documents: all, seconds } = answer ?? {};
  byId("status").textContent = !seconds ? ""
    : `${counted(some.length, "hit")} in ${counted(all, "document")} · ${Math.ceil((seconds.encode + seconds.search) * 1000)} ms`;
  const remark = !answer ? about() : some.length ? [progress(answer)] : all === undefined ? [] : [emptiness(answer)];
  byId("remark").replaceChildren(...remark.filter(Boolean));
  clearTimeout(watching);
  if (document.querySelector("#remark .encoded")) watching = setTimeout(watch, WATCHING, here());
}

/** Go on telling how much is encoded, while it grows. */
async function watch(path) {
  const now = await ask(path).catch(() => null);
  const shown = document.querySelector("#remark .encoded");
  if (!now || !shown || path !== here()) return;
  shown.replaceWith(progress(now) ?? "");
  if (now.unencoded) watching = setTimeout(watch, WATCHING, path);
}

/** How much of the index vectors find, unless it is all. */
function progress({ documents: all, unencoded }) {
  if (!unencoded || !all) return null;
  const bar = el("progress", { max: all, value: all - unencoded, "aria-label": "Encoded" });
  const rest = mode() === "late" ? "Late does not find the others yet; hybrid and words do, by their words."
    : "The others are found by their words alone.";
  const part = `${(all - unencoded).toLocaleString("en")} of ${counted(all, "document")}`;
  return el("p", { class: "encoded" }, bar, el("span", {}, `${part} are encoded. ${rest}`));
}

/** What it means that nothing was found, and what may be done. */
function emptiness({ documents: all, unencoded }) {
  const words = mode() === "lexical";
  const narrowed = Object.keys(state.where).length > 0 || state.filter !== "";
  const told = (means, offer, changes) => el("div", { class: "empty" }, el("p", {}, means),
    offer && el("button", { type: "button", click: () => choose(changes) }, offer));
  if (all === 0) return told("This index has no documents.");
  if (!words && unencoded === all) {
    return told("Nothing is encoded yet, so nothing can be found by meaning.", "Search by words", { mode: "lexical" });
  }
  if (narrowed) {
    const which = words ? "that meets the filters has a word of this query" : "meets the filters";
    return told(`No document ${which}.`, "Clear the filters", { where: {}, filter: "" });
  }
  if (!words) return told("No document was found.");
  return told("No document has a word of this query. Late also finds what is said in other words.",
    "Search by meaning", { mode: "late" });
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
  byId("alert").replaceChildren(el("p", {}, error.message), error.status === 401 ? tokenForm()
    : el("button", { type: "button", click: () => start() }, "Try again"));
}

function tokenForm() {
  const input = el("input", { type: "password", autocomplete: "off", "aria-label": "Token" });
  const submit = instead(() => {
    useToken(input.value.trim());
    start();
  });
  return el("form", { submit }, input, el("button", {}, "Use this token"));
}

// What is done -----------------------------------------------------------------------------------------------------

/** A listener that does something else than the browser would. */
const instead = (act) => (event) => {
  event.preventDefault();
  act();
};
const on = (id, event, act) => byId(id).addEventListener(event, act);

on("query", "input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => typed(false), TYPING);
});
on("form", "submit", instead(() => typed(true)));
on("modes", "change", ({ target }) => choose({ mode: target.value === index().mode ? "" : target.value }));
on("index", "change", ({ target }) => choose({ index: target.value, where: {}, filter: "" }));
on("filters-button", "click", () => filters.open());
on("filters", "change", () => choose(filters.taken()));
on("filters", "submit", instead(() => choose(filters.taken())));
on("filters", "reset", instead(() => choose({ where: {}, filter: "" })));
on("more", "click", async () => {
  const n = found.hits.length;
  await go({ k: state.k + 10 }, false);
  document.querySelectorAll("#hits h2 a")[n]?.focus();
});
on("hits", "click", (event) => {
  const link = event.target.closest("a[data-doc]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  typedAt = 0;
  go({ doc: link.dataset.doc });
});
on("document", "cancel", instead(closeDocument));
on("document", "click", ({ target, currentTarget }) => {
  if (target === currentTarget) closeDocument(); // beside it
});
window.addEventListener("popstate", () => {
  const before = state;
  state = read();
  query.value = state.q;
  shown(before);
});

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || documents.isOpen()) return;
  const vertical = { ArrowDown: 1, ArrowUp: -1 }[key];
  const sideways = { ArrowRight: 1, ArrowLeft: -1 }[key];
  const onHit = target.closest("#hits") !== null;
  const onToken = target.closest("#tokens") !== null;
  let done = true;
  if (key === "/" && !target.closest("input, select, textarea")) query.select();
  else if (key === "Escape" && target === query) {
    query.value = "";
    typed(false);
  } else if (key === "Escape" && map.held !== null) map.hold(null);
  else if (key === "Escape") query.focus();
  else if (vertical && (onHit || ((target === query || onToken) && key === "ArrowDown"))) {
    if (!hits.walk(vertical) && key === "ArrowUp") query.focus();
  } else if (sideways && onHit) map.step(sideways);
  else if (sideways && onToken) map.walk(target, sideways);
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
  await shown(null);
  if (!state.doc) query.focus();
  return undefined;
}

start();
