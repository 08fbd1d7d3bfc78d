// The text of a hit and of a document: prose, or code with its line numbers.

import { el } from "./dom.js";
import { painted, parts, rows } from "./marks.js";

const PROSE = new Set(["markdown", "text", "restructuredtext", "asciidoc", "org", "html", "latex"]);

/** Whether a document is code, by the metadata that `latewood index FOLDER` gives. */
export const isCode = ({ start_line, language }) =>
  Number.isInteger(start_line) && typeof language === "string" && !PROSE.has(language);

/** What a document is called: its title, its symbol or its id. */
export function titleOf({ doc_id, metadata }) {
  const { title, symbol, path } = metadata;
  return [title, symbol, path, doc_id].find((name) => typeof name === "string" && name.trim()) ?? doc_id;
}

/** Where a document is from: path:first–last, kind and language, or its id. */
export function placeOf({ doc_id, metadata, passage }, title) {
  const { path, kind, language, start_line, end_line } = metadata;
  if (typeof path !== "string") return doc_id === title ? [] : [doc_id];
  const first = passage?.first_line ?? start_line;
  const last = passage?.last_line ?? end_line;
  const lines = Number.isInteger(first) ? `:${first}${last > first ? `–${last}` : ""}` : "";
  return [path + lines, kind, language].filter((part) => typeof part === "string" && part !== "");
}

const isRange = (pair) => Array.isArray(pair) && pair.every(Number.isInteger) && pair[1] - pair[0] < 1e6;

/** [{number, start, end}] of a text's lines, numbered as in their file: `lines` has the ranges a class is made of. */
export function linesOf(text, metadata, first) {
  const { lines: ranges } = metadata;
  const known = Array.isArray(ranges) && ranges.every(isRange); // else the key is the user's own
  const numbers = known ? ranges.flatMap(([a, b]) => Array.from({ length: b - a + 1 }, (_, i) => a + i)) : [];
  let start = 0;
  return text.split("\n").map((line, i) => {
    const place = { number: numbers[i] ?? first + i, start, end: start + line.length };
    start = place.end + 1;
    return place;
  });
}

/** Prose whose lines are broken anywhere, with as many characters: paragraphs, lists and tables keep theirs. */
const flowing = (text) => text.replace(/(?<=\S)\n(?=[\p{L}\p{N}"'(`])(?!\d+[.)])/gu, " ").replace(/\n[ \t]*(?=\n)/g, (gap) => " ".repeat(gap.length));

/** What a hit shows of its passage. */
export function shortPassage(hit, marks) {
  const { text, first_line: first } = hit.passage;
  if (isCode(hit.metadata)) {
    // Only a passage that is its whole document begins where the ranges do.
    const known = hit.passage.span[0] === 0 ? hit.metadata : {};
    const lines = linesOf(text.replace(/\s+$/, ""), known, first);
    return codeOf(text, lines, rows(lines, marks), marks);
  }
  const nodes = parts(text, marks).flatMap(([start, end], i) => [
    i > 0 || start > 0 ? gap() : "",
    ...painted(flowing(text), start, end, marks),
    end < text.length ? " " : "",
  ]);
  const cut = nodes.at(-1) === " " ? [gap()] : [];
  return el("p", { class: "prose", dir: "auto" }, ...nodes, ...cut);
}

const gap = () => el("span", { class: "gap" }, "… ");

/** Rows of code: the chosen of `lines`, with a mark where some are left out. */
export function codeOf(text, lines, chosen, marks, inside = () => false) {
  const shown = chosen.flatMap((index, i) => {
    const { number, start, end } = lines[index];
    const jump = i > 0 && chosen[i - 1] !== index - 1;
    const line = el("span", { class: inside(start, end) ? "line inside" : "line", "data-line": number },
      ...painted(text, start, end, marks), "\n");
    return jump ? [el("span", { class: "jump", "aria-hidden": "true" }), line] : [line];
  });
  return el("pre", { class: "code" }, el("code", {}, ...shown));
}
