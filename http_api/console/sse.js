// Server-sent events (WHATWG HTML section 9.2) read with fetch(), because EventSource cannot send a token.

import { Problem, ask } from "./api.js";

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30_000;
// The server sends a comment every 15 s; three that are missing are a connection that died without a word.
const SILENCE_MS = 45_000;

/** What arrives in a body: {type, data, id}, and {retry} where the server asks for another wait. */
export async function* eventsOf(body) {
  let rest = "";
  let event = { type: "message", data: [], id: null };
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (event.data.length) yield { type: event.type, data: event.data.join("\n"), id: event.id };
          event = { type: "message", data: [], id: event.id };
          continue;
        }
        const colon = line.indexOf(":");
        if (colon === 0) {
          yield { type: "comment" };
          continue;
        }
        const name = colon < 0 ? line : line.slice(0, colon);
        const field = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (name === "event") event.type = field;
        else if (name === "data") event.data.push(field);
        else if (name === "id") event.id = field;
        else if (name === "retry" && /^\d+$/.test(field)) yield { type: "retry", retry: Number(field) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Follow an event stream for good: taken up again after the last event that came, later each time nobody answers.
 *
 * event(type, data)  something has happened; `gap` says that something else has too, which is not known any more
 * state(name, why)   "live", "waiting", "refused", or "out" where a token is asked for
 */
export async function follow(path, { event, state, signal }) {
  let last = null;
  let firstWait = FIRST_WAIT_MS;
  let failures = 0;
  while (!signal.aborted) {
    const attempt = new AbortController();
    const end = () => attempt.abort();
    signal.addEventListener("abort", end);
    let silence = setTimeout(end, SILENCE_MS);
    let why = "The stream of events has ended.";
    try {
      const headers = last === null ? {} : { "Last-Event-ID": last };
      const response = await ask("GET", path, { headers, signal: attempt.signal, streamed: true });
      state("live", "");
      for await (const { type, data, id, retry } of eventsOf(response.body)) {
        failures = 0;
        clearTimeout(silence);
        silence = setTimeout(end, SILENCE_MS);
        if (type === "comment") continue;
        if (type === "retry") firstWait = retry;
        else {
          if (id !== null) last = id;
          event(type, JSON.parse(data));
        }
      }
    } catch (error) {
      why = error instanceof Problem ? error.message : "The connection was lost.";
      if (error instanceof Problem && (error.status === 403 || error.status === 401)) {
        state(error.status === 401 ? "out" : "refused", why);
        return;
      }
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", end);
    }
    if (signal.aborted) return;
    state("waiting", why);
    // Not all at once, when a server comes back that many consoles wait for.
    const wait = Math.min(firstWait * 2 ** failures, LONGEST_WAIT_MS) * (0.75 + Math.random() / 2);
    failures += 1;
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}
