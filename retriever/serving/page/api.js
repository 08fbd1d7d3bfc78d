// The server's answers, and what went wrong in words that a reader can act on.

const ROOT = new URL("../v1/", import.meta.url); // beside the page, so that a proxy may give it any prefix
const TRIES = 4; // of a question to a server that says it is busy
const TOKEN = "latewood-token"; // kept for this tab alone

export class Problem extends Error {
  /** status: of HTTP, 0 where there was no answer. */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const useToken = (token) => sessionStorage.setItem(TOKEN, token);

/** JSON of a path under /v1/; sends `body`, where there is one. Raises Problem, or AbortError when cancelled. */
export async function ask(path, { body, signal, busy = () => {} } = {}) {
  for (let left = TRIES; ; left -= 1) {
    const answer = await sent(path, body, signal);
    if (answer.status !== 503 || left === 1) return understood(answer);
    const seconds = Math.min(Number(answer.headers.get("Retry-After")) || 1, 30);
    busy(`The server is busy; asking again in ${seconds} s.`);
    await pause(seconds, signal);
  }
}

async function sent(path, body, signal) {
  const headers = { Accept: "application/json" };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  try {
    return await fetch(new URL(path, ROOT), { method, headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer. Is latewood serve still running?");
  }
}

async function understood(answer) {
  if (answer.status === 401) throw new Problem(401, "This server answers only those who have its token.");
  const read = await answer.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return null; // no JSON, or only a part of it
  });
  if (answer.ok && read) return read;
  const said = typeof read?.detail === "string" ? read.detail : `The server answered ${answer.status}.`;
  throw new Problem(answer.status, said);
}

const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("cancelled", "AbortError"));
    });
  });
