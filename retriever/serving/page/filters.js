// Fields made of the metadata keys that an index has, and the filter that they say (docs/guides/filters.md).

import { byId, el } from "./dom.js";

const form = byId("filters");

/** Lay out a field for each key. keys: [{key, values | null}], values: those that there are, null where they are many. */
export function layOut(keys) {
  const known = keys.filter(({ values }) => values !== null);
  const many = keys.filter(({ values }) => values === null);
  const fields = [...known.map(choice), ...many.map(words)];
  form.replaceChildren(
    ...fields,
    el("label", { class: "wide" }, el("span", {}, "Filter"),
      el("input", { name: "filter", placeholder: "lang = 'py' and stars >= 10", autocomplete: "off", spellcheck: "false" })),
    el("button", { type: "reset" }, "Clear filters"),
  );
}

const choice = ({ key, values }) =>
  el("label", {}, el("span", {}, key), el("select", { name: key, "data-key": key },
    el("option", { value: "" }, "any"),
    ...values.map((value) => el("option", { value: JSON.stringify(value) }, String(value)))));

const words = ({ key }) =>
  el("label", {}, el("span", {}, key),
    el("input", { name: key, "data-key": key, placeholder: "contains, or >= 10", autocomplete: "off", spellcheck: "false" }));

const fields = () => [...form.querySelectorAll("[data-key]")];

/** Fill the fields in from a state; how many say something. */
export function fill(state) {
  for (const field of fields()) field.value = state.where[field.dataset.key] ?? "";
  if (form.elements.filter) form.elements.filter.value = state.filter;
  const n = Object.values(state.where).filter(Boolean).length + (state.filter ? 1 : 0);
  byId("filters-button").textContent = n ? `Filters (${n})` : "Filters";
  return n;
}

/** {where, filter} as the fields have them. */
export function taken() {
  const chosen = fields().filter((field) => field.value.trim()).map((field) => [field.dataset.key, field.value]);
  return { where: Object.fromEntries(chosen), filter: form.elements.filter?.value.trim() ?? "" };
}

export function open(wanted = form.hidden) {
  form.hidden = !wanted;
  byId("filters-button").setAttribute("aria-expanded", String(wanted));
}

/** The filter that a state asks for, in the server's language; undefined for none. keys: as in `layOut`. */
export function expression({ where, filter }, keys) {
  const clauses = Object.entries(where).map(([key, text]) => {
    const known = keys.find((one) => one.key === key)?.values;
    if (known === null) return typed(key, text.trim());
    return `${key} = ${literal(known?.find((value) => JSON.stringify(value) === text) ?? text)}`;
  });
  if (clauses.length === 0) return filter || undefined; // as it is, so that an error names the reader's own position
  return [filter && `(${filter})`, ...clauses].filter(Boolean).join(" and ");
}

const literal = (value) => (typeof value === "string" ? `'${value.replaceAll("'", "''")}'` : String(value));
const isNumber = (text) => text !== "" && Number.isFinite(Number(text));

/** What was typed for a key: `>= 10`, `= name`, or what a string or an array contains, or a number is. */
function typed(key, text) {
  const [, operator, right] = text.match(/^(<=|>=|!=|<|>|=)\s*(.+)$/) ?? [];
  if (operator) return `${key} ${operator} ${isNumber(right) ? right : literal(right)}`;
  const contains = `${key} icontains ${literal(text)} or ${key} contains ${literal(text)}`;
  return isNumber(text) ? `(${key} = ${text} or ${contains})` : `(${contains})`;
}
