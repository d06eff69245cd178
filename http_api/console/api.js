// The API, as the page asks it: the token, problems (RFC 9457) as errors, and what the token opens.

const base = new URL("../", import.meta.url);
const KEY = "mediaserver.token";
const PATIENCE_MS = 30_000;

// Only in this window, and gone with it; never in an address.
let token = sessionStorage.getItem(KEY) ?? "";
let identity = { name: null, opens: [] };
let paths = {};
let signIn = null;
let skewMs = 0;

/** What the server would not do, and what to do about it. `errors` name the fields at fault. */
export class Problem extends Error {
  constructor(status, { detail, errors = [], retryAfter = null, challenged = false }) {
    super(Problem.#advice(status, detail, retryAfter, challenged));
    this.status = status;
    this.detail = detail;
    /** Seconds after which to ask again; null where that would change nothing. */
    this.retryAfterS = status === 0 || status === 429 || status === 503 ? Number(retryAfter ?? 1) : null;
    this.errors = errors;
  }

  static #advice(status, detail, retryAfter, challenged) {
    if (status === 0) return "The server does not answer. Check that it runs and that you can reach it, then try again.";
    if (status === 401) return `${detail} Sign in, at the top of the page.`;
    if (status === 403 && challenged) return `${detail} Ask whoever runs the server for a token that may.`;
    if (status === 429 || status === 503) return `${detail} Try again in ${retryAfter ?? 1} s.`;
    if (status >= 500) return `${detail} If it happens again, look into the server's log.`;
    return detail;
  }
}

/** Who asks for a token when one is needed: gets the server's words, gives a promise of whether there is one now. */
export function onSignIn(asker) {
  let asking = null;
  signIn = (why) => {
    asking ??= asker(why).finally(() => (asking = null));
    return asking;
  };
}

/** Milliseconds since the epoch by the server's clock, as well as it is known: to a second. */
export const serverNow = () => Date.now() + (Math.abs(skewMs) > 2000 ? skewMs : 0);

export const hasToken = () => token !== "";
export const name = () => identity.name;
export const opens = (role) => identity.opens.includes(role);

/** Whether this server has such a path. */
export const has = (path) => path in paths;

/** Keep a token if it is in force, or throw the Problem. */
export async function present(secret) {
  await once("GET", "v1/token", { secret });
  token = secret;
  sessionStorage.setItem(KEY, secret);
}

export function forget() {
  token = "";
  sessionStorage.removeItem(KEY);
  identity = { name: null, opens: [] };
}

/** Learn what this server can do, and what we may. */
export async function meet() {
  paths = (await ask("GET", "openapi.json")).paths;
  identity = await ask("GET", "v1/token");
}

/**
 * Ask, and give the JSON that comes back, or the Response where it is `streamed`.
 *
 * json, form  what to send
 * quiet       do not ask for a token, and let the 401 be
 * any         give a JSON that says how things are whatever its status is
 */
export async function ask(method, path, options = {}) {
  for (;;) {
    try {
      return await once(method, path, { secret: token, ...options });
    } catch (problem) {
      if (problem.status !== 401 || options.quiet || signIn === null) throw problem;
      if (!(await signIn(hasToken() ? problem.detail : ""))) throw problem;
    }
  }
}

async function once(method, path, { secret, json, form, headers = {}, signal, streamed = false, any = false }) {
  const sent = { ...headers };
  if (secret) sent.Authorization = `Bearer ${secret}`;
  if (json !== undefined) sent["Content-Type"] = "application/json";
  const signals = [signal, streamed || form ? null : AbortSignal.timeout(PATIENCE_MS)].filter(Boolean);
  let response;
  try {
    response = await fetch(new URL(path, base), {
      method,
      headers: sent,
      body: json === undefined ? form : JSON.stringify(json),
      signal: AbortSignal.any(signals),
      credentials: "omit",
      cache: "no-store",
      referrerPolicy: "no-referrer",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, {});
  }
  const date = Date.parse(response.headers.get("Date") ?? "");
  if (!Number.isNaN(date)) skewMs = date - Date.now();
  const isJson = response.headers.get("Content-Type")?.startsWith("application/json");
  if (!response.ok && !(any && isJson)) throw await problemOf(response);
  if (streamed) return response;
  if (response.status === 204) return null;
  return isJson ? response.json() : response.text();
}

async function problemOf(response) {
  const retryAfter = response.headers.get("Retry-After");
  // RFC 6750 section 3.1: a token that has not the role is told so, and what no token may is not.
  const challenged = response.headers.has("WWW-Authenticate");
  try {
    return new Problem(response.status, { ...(await response.json()), retryAfter, challenged });
  } catch {
    return new Problem(response.status, { detail: `The server answers ${response.status}.`, retryAfter });
  }
}
