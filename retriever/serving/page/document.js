// A document, whole, in a dialog: its passage marked and in view.

import { byId, el } from "./dom.js";
import { told } from "./map.js";
import { matchMarks, painted, unitsOf, wordMarks } from "./marks.js";
import { codeOf, isCode, linesOf, placeOf, titleOf } from "./passages.js";

const dialog = byId("document");

/** Show a document. hit: what the search found of it, if it did; query: its words are marked where no vectors tell. */
export function show(found, { hit, query, close }) {
  const text = found.text ?? "";
  const title = titleOf(found);
  const marks = hit?.explanation ? matchMarks(hit.explanation, text) : wordMarks(query, text);
  const [start, end] = (hit?.passage?.span ?? [0, 0]).map(unitsOf(text));
  dialog.replaceChildren(
    el("div", { class: "head" },
      el("div", {},
        el("h2", { id: "document-title", dir: "auto" }, title),
        el("p", { class: "place" }, placeOf(found, title).join(" · "))),
      el("button", { type: "button", class: "close", "aria-label": "Close the document", click: close }, "×")),
    metadataOf(found.metadata),
    hit?.explanation ? matchesOf(hit.explanation) : "",
    found.text === null ? el("p", { class: "prose" }, "This document is stored without its text.")
      : isCode(found.metadata) ? code(text, found.metadata, marks, [start, end]) : prose(text, marks, [start, end]),
  );
  if (!dialog.open) dialog.showModal();
  inView();
}

export const isOpen = () => dialog.open;

export function hide() {
  if (dialog.open) dialog.close();
}

function metadataOf(metadata) {
  const entries = Object.entries(metadata).filter(([, value]) => value !== null && value !== "");
  const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  return entries.length === 0 ? "" : el("details", {}, el("summary", {}, "Metadata"),
    el("dl", {}, ...entries.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, shown(value))])));
}

/** A button for each match: to where it stands. */
function matchesOf({ matches }) {
  const go = (i) => dialog.querySelector(`mark[data-tokens~="${i}"]`)?.scrollIntoView({ block: "center" });
  const found = matches.map((match, i) => ({ ...match, i })).filter(({ span }) => span);
  return el("div", { class: "matches", role: "group", "aria-label": "Matches of the query's tokens" },
    ...found.map((match) => el("button", { type: "button", "data-tokens": match.i, click: () => go(match.i) }, ...told(match))));
}

function prose(text, marks, [start, end]) {
  if (start === 0 && end >= text.trimEnd().length) end = 0; // the whole text need not be told from the rest
  const passage = end > start ? [el("span", { class: "passage" }, ...painted(text, start, end, marks))] : [];
  return el("div", { class: "prose whole", dir: "auto" },
    ...painted(text, 0, start, marks), ...passage, ...painted(text, Math.max(start, end), text.length, marks));
}

function code(text, metadata, marks, [start, end]) {
  const lines = linesOf(text, metadata, metadata.start_line);
  const whole = start === 0 && end >= text.trimEnd().length; // then the rule beside it would say nothing
  return codeOf(text, lines, [...lines.keys()], marks, (from, to) => !whole && to > start && from < end);
}

/** Bring the passage into view; of a long one its best match. */
function inView() {
  const passage = dialog.querySelector(".passage, .inside");
  const marks = [...dialog.querySelectorAll("mark")];
  const share = (mark) => Number(mark.style.getPropertyValue("--share")) || 0;
  const best = marks.reduce((one, other) => (one && share(one) >= share(other) ? one : other), null);
  const long = passage && passage.getBoundingClientRect().height > dialog.clientHeight / 2;
  const target = passage && !long ? passage : best;
  dialog.scrollTop = 0;
  target?.scrollIntoView({ block: "center" });
}
