// Which parts of a text are marked, which parts of a long one are shown, and the text with its marks.
//
// The server counts characters in code points, a string here in UTF-16 units: `unitsOf` goes from one to the other.
// A mark is {start, end, share, tokens}: units, the part of the score it got (1 for the greatest of its passage), and
// the query tokens whose best match it is. A word of the query, where there are no vectors, has no share and no token.

import { el } from "./dom.js";

const PARTS = 620; // characters of a long passage that a hit shows
const BEFORE = 60; // and around a mark
const AFTER = 100;
const ROWS = 9; // lines of code that a hit shows
const WORTH = 0.25; // share of a mark for whose sake a part is shown
const STEM = 5; // letters by which words are compared, as `latewood search` does for code

/** A function: position in code points → position in UTF-16 units. */
export function unitsOf(text) {
  if (!/[\ud800-\udfff]/.test(text)) return (point) => point;
  const units = [0];
  for (const character of text) units.push(units.at(-1) + character.length);
  return (point) => units[Math.min(point, units.length - 1)];
}

/** Marks of an explanation in a text that begins at `offset` of its document, in order. */
export function matchMarks(explanation, text, offset = 0) {
  const units = unitsOf(text);
  const found = new Map();
  explanation.matches.forEach(({ span, score }, token) => {
    if (span === null) return; // a marker, such as [CLS], stands nowhere
    const mark = found.get(span[0]) ?? { start: units(span[0] - offset), end: units(span[1] - offset), share: 0, tokens: [] };
    mark.share += Math.max(score, 0);
    mark.tokens.push(token);
    found.set(span[0], mark);
  });
  const greatest = Math.max(...[...found.values()].map((mark) => mark.share), 1e-9);
  for (const mark of found.values()) mark.share /= greatest;
  return [...found.values()].sort((a, b) => a.start - b.start);
}

/** Marks of the query's words in a text. */
export function wordMarks(query, text) {
  const wanted = new Set(wordsOf(query).map(({ stem }) => stem));
  return wordsOf(text).filter(({ stem }) => wanted.has(stem));
}

const wordsOf = (text) =>
  [...text.matchAll(/[\p{L}\p{M}\p{N}]{2,}/gu)].map((match) => ({
    start: match.index,
    end: match.index + match[0].length,
    stem: match[0].normalize("NFKC").toLowerCase().slice(0, STEM),
    tokens: [],
  }));

/** [start, end) of the parts of a text that show its greatest marks: all of it where it is short. */
export function parts(text, marks) {
  if (text.length <= PARTS * 1.25) return [[0, text.length]];
  let chosen = [[0, 0]];
  for (const { start, end } of worthwhile(marks)) {
    const wider = merged([...chosen, [wordStart(text, start - BEFORE), wordEnd(text, end + AFTER)]]);
    if (chosen.length > 1 && wider.reduce((sum, [from, to]) => sum + to - from, 0) > PARTS) break;
    chosen = wider;
  }
  const some = chosen.filter(([from, to]) => to > from);
  return some.length ? some : [[0, wordEnd(text, PARTS)]];
}

/** Indexes of the lines that show the first line and the greatest marks, each with the lines around it. */
export function rows(lines, marks) {
  const wanted = worthwhile(marks).map((mark) => lines.findIndex((line) => mark.start < line.end + 1));
  const near = [0, ...wanted];
  for (let d = 1; d < ROWS; d += 1) near.push(...[0, ...wanted].flatMap((i) => [i + d, i - d]));
  const chosen = new Set(near.filter((i) => i >= 0 && i < lines.length));
  return [...chosen].slice(0, ROWS).sort((a, b) => a - b);
}

const worthwhile = (marks) =>
  marks.filter(({ share = 1 }) => share >= WORTH).sort((a, b) => (b.share ?? 0) - (a.share ?? 0));

function merged(ranges) {
  const joined = [];
  for (const [start, end] of ranges.sort((a, b) => a[0] - b[0])) {
    const last = joined.at(-1);
    if (last && start <= last[1] + BEFORE / 2) last[1] = Math.max(last[1], end);
    else joined.push([start, end]);
  }
  return joined;
}

function wordStart(text, at) {
  if (at <= BEFORE) return 0;
  const space = text.slice(at, at + BEFORE).search(/\s/);
  return at + Math.max(space + 1, 0);
}

function wordEnd(text, at) {
  if (at + AFTER / 2 >= text.length) return text.length;
  const space = text.slice(at - AFTER, at).search(/\s\S*$/);
  return space < 0 ? at : at - AFTER + space;
}

/** Nodes of text[start:end] with its marks. */
export function painted(text, start, end, marks) {
  const nodes = [];
  let at = start;
  for (const mark of marks) {
    if (mark.end <= at || mark.start >= end) continue;
    const [from, to] = [Math.max(mark.start, at), Math.min(mark.end, end)];
    nodes.push(text.slice(at, from), markOf(text.slice(from, to), mark));
    at = to;
  }
  nodes.push(text.slice(at, end));
  return nodes.filter((node) => node !== "");
}

function markOf(text, { share, tokens }) {
  const mark = el("mark", { class: share === undefined ? "word" : null, "data-tokens": tokens.join(" ") || null }, text);
  if (share !== undefined) mark.style.setProperty("--share", share.toFixed(3));
  return mark;
}
