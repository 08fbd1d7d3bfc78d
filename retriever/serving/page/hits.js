// A list of hits.

import { byId, el } from "./dom.js";
import { matchMarks, wordMarks } from "./marks.js";
import { placeOf, shortPassage, titleOf } from "./passages.js";

/** Lay out the hits of a query; addressOf: doc_id → link. Returns the parts that the match map fills in. */
export function layOut(hits, query, addressOf) {
  const cards = hits.map((hit, i) => cardOf(hit, query, addressOf(hit.doc_id), hits[i - 1]?.rank === hit.rank));
  byId("hits").replaceChildren(...cards.map(({ card }) => card));
  return cards;
}

function cardOf(hit, query, address, goesOn) {
  const title = titleOf(hit);
  const note = el("p", { class: "note" });
  const bar = el("div", { class: "bar", "aria-hidden": "true" });
  const place = placeOf(hit, title);
  const card = el("li", { class: goesOn ? "hit goes-on" : "hit", "data-rank": hit.rank },
    el("h2", {},
      el("a", { href: address, "data-doc": hit.doc_id, dir: "auto" }, title),
      el("span", { class: "score", title: "Score" }, hit.score?.toFixed(hit.score < 0.1 ? 4 : 2))),
    place.length ? el("p", { class: "place" }, place.join(" · ")) : null,
    hit.passage ? shortPassage(hit, marksOf(hit, query)) : el("p", { class: "place" }, "Stored without its text."),
    hit.explanation ? [bar, note] : null);
  return { hit, card, note, bar };
}

function marksOf({ passage, explanation }, query) {
  return explanation ? matchMarks(explanation, passage.text, passage.span[0]) : wordMarks(query, passage.text);
}

const links = () => [...document.querySelectorAll("#hits h2 a")];

/** Move the focus to the hit that comes `by` after the focused one; false where there is none. */
export function walk(by) {
  const all = links();
  const next = all[all.indexOf(document.activeElement) + by];
  next?.focus();
  next?.closest(".hit").scrollIntoView({ block: "nearest" });
  return next !== undefined;
}
