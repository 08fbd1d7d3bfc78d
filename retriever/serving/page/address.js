// What the page shows is what its address says: a link, a reload and the back button bring the same.

const PLAIN = { index: "", q: "", mode: "", k: 10, filter: "", doc: "" };
const WHERE = "where."; // before the name of a metadata key

/** State of an address: PLAIN's names, of which mode "" is the index's own, and where: {metadata key: what was chosen or typed}. */
export function read(search = location.search) {
  const state = { ...PLAIN, where: {} };
  for (const [name, value] of new URLSearchParams(search)) {
    if (name.startsWith(WHERE)) state.where[name.slice(WHERE.length)] = value;
    else if (name in PLAIN) state[name] = value;
  }
  state.k = Math.min(Math.max(Number.parseInt(state.k, 10) || PLAIN.k, 1), 1000);
  if (!["late", "hybrid", "lexical"].includes(state.mode)) state.mode = PLAIN.mode;
  return state;
}

/** Address of a state, as short as it can be. */
export function write(state) {
  const parameters = new URLSearchParams();
  for (const [name, plain] of Object.entries(PLAIN)) {
    if (state[name] !== plain) parameters.set(name, state[name]);
  }
  for (const [key, value] of Object.entries(state.where)) {
    if (value !== "") parameters.set(WHERE + key, value);
  }
  const text = parameters.toString();
  return location.pathname + (text && `?${text}`);
}

/** Whether two states search for the same. */
export const asksSame = (a, b) => write({ ...a, doc: "" }) === write({ ...b, doc: "" });
