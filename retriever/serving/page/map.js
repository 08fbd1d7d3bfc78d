// The match map: the query's tokens, and on pointing at one, its best match in each hit and the score that it gave.

import { byId, el } from "./dom.js";

const BEST = 3; // matches that a hit names while no token is pointed at
const AROUND = 28; // characters around a match that the shown parts of a passage leave out

/** A token as a reader knows it: without the signs by which tokenizers tell where a word begins. */
const plain = (token) => (token ?? "?").replace(/^(##|[Ġ▁])(?=.)/u, "");

/** Whether a token is one of the model's own, such as [CLS], which a reader did not write. */
const isMarker = (token) => /^(\[.+\]|<.+>)$/.test(token ?? "");

export class MatchMap {
  #cards = []; // {hit, card, note, bar} of each hit that has an explanation
  #tokens = [];
  #held = null; // the token that was clicked on
  #now = null;

  constructor() {
    this.bar = byId("tokens");
    document.addEventListener("pointerover", ({ target }) => this.#over(target));
    byId("document").addEventListener("focusin", ({ target }) => this.#over(target));
  }

  /** Show the tokens of what was found; cards: [{hit, card, note, bar}]. */
  show(cards) {
    this.#cards = cards.filter(({ hit }) => hit.explanation);
    const first = this.#cards[0]?.hit.explanation;
    this.#held = this.#now = null;
    byId("told").textContent = "";
    byId("map").hidden = !first;
    this.#tokens = (first?.query_tokens ?? []).map((token, i) => this.#button(token, i));
    this.bar.replaceChildren(...this.#tokens);
    this.#tokens[0]?.setAttribute("tabindex", "0");
    for (const card of this.#cards) {
      card.bar.replaceChildren(...card.hit.explanation.matches.map(segment));
    }
    this.point(null);
  }

  #button(token, i) {
    const scores = this.#cards.map(({ hit }) => Math.max(hit.explanation.matches[i]?.score ?? 0, 0));
    const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length;
    const kind = isMarker(token) ? "token marker" : token?.startsWith("##") ? "token joined" : "token";
    const button = el("button", {
      type: "button", class: kind, tabindex: "-1", "aria-pressed": "false", "data-tokens": i,
      title: `${mean.toFixed(2)} on average`,
      pointerenter: () => this.point(i), pointerleave: () => this.point(this.#held),
      focus: () => this.point(i), blur: () => this.point(this.#held),
      click: () => this.hold(this.#held === i ? null : i),
    }, plain(token));
    button.style.setProperty("--share", Math.min(mean, 1).toFixed(3));
    return button;
  }

  #over(target) {
    const marked = target.closest("[data-tokens]");
    if (marked) this.point(Number(marked.dataset.tokens.split(" ")[0]));
    else if (this.#now !== this.#held && !this.bar.contains(document.activeElement)) this.point(this.#held);
  }

  /** Keep a token pointed at, or none. */
  hold(i) {
    this.#held = i;
    this.#tokens.forEach((token, at) => token.setAttribute("aria-pressed", String(at === i)));
    this.point(i);
  }

  get held() {
    return this.#held;
  }

  /** Hold the next token, or the one before. */
  step(by) {
    const n = this.#tokens.length;
    if (n) this.hold(this.#held === null ? (by > 0 ? 0 : n - 1) : (this.#held + by + n) % n);
  }

  /** Move the focus within the toolbar, where one token at a time can be reached by Tab. */
  walk(from, by) {
    const next = this.#tokens.at((this.#tokens.indexOf(from) + by) % this.#tokens.length);
    for (const token of this.#tokens) token.setAttribute("tabindex", token === next ? "0" : "-1");
    next.focus();
  }

  point(i) {
    this.#now = i;
    document.body.classList.toggle("pointing", i !== null);
    for (const marked of document.querySelectorAll("[data-tokens]")) {
      marked.classList.toggle("pointed", i !== null && marked.dataset.tokens.split(" ").includes(String(i)));
    }
    const said = this.#cards.map((card) => this.#note(card, i));
    if (i !== null) byId("told").textContent = `${this.#tokens[i].textContent}: ${said.slice(0, BEST).join("; ")}`;
  }

  /** Tell in a hit what a token matched, or what counts most; returns it as a sentence. */
  #note({ hit, card, note }, i) {
    const { matches } = hit.explanation;
    const best = matches.filter(({ span, query_token: token }) => span && !isMarker(token)).sort((a, b) => b.score - a.score);
    const shown = i === null ? best.slice(0, BEST) : [matches[i]];
    note.replaceChildren(...shown.flatMap((match, at) => [at ? "  ·  " : "", ...told(match)]).filter(Boolean));
    if (i === null) return "";
    const seen = card.querySelector(`mark[data-tokens~="${i}"]`) !== null;
    if (!seen && matches[i].span) note.append(el("span", { class: "around" }, ` ${around(hit.passage, matches[i].span)}`));
    return `hit ${hit.rank}, ${plain(matches[i].passage_token)}, ${matches[i].score.toFixed(2)}`;
  }
}

/** A match, in words. */
export const told = ({ query_token: query, passage_token: passage, score }) => [
  el("b", {}, plain(query)), " → ", el("b", {}, plain(passage)), ` ${score.toFixed(2)}`,
];

/** A match's part of the score, as a part of a line. */
function segment({ score, span, query_token: token }, i) {
  const part = el("span", { class: span ? null : "marker", "data-tokens": i, title: `${plain(token)} ${score.toFixed(2)}` });
  part.style.flexGrow = Math.max(score, 0).toFixed(4);
  return part;
}

function around({ text, span: [offset] }, [start, end]) {
  const points = [...text];
  const from = Math.max(start - offset - AROUND, 0);
  return `(… ${points.slice(from, end - offset + AROUND).join("").replace(/\s+/g, " ").trim()} …)`;
}
