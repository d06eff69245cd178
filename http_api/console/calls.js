// Live calls: a list that follows the server's events, and one call as closely as it can be seen.

import { Problem, ask, has, opens, serverNow } from "./api.js";
import { $, announce, clock, h, icon, mark, moment, reconcile, save, say, toast } from "./dom.js";
import { missing, onSubmit, restrict } from "./forms.js";
import { History, Plot } from "./plot.js";
import { follow } from "./sse.js";

const SPAN_S = 300;
const SHOWN = 200;
const WATCHED = 20; // calls whose words are followed without being looked at
const REFRESH_MS = 300;

const STATES = {
  preparing: ["Preparing", "wait"],
  calling: ["Calling", "wait"],
  ringing: ["Ringing", "wait"],
  offered: ["Offered", "wait"],
  up: ["Up", "good"],
  transferring: ["Transferring", "wait"],
  ending: ["Ending", "wait"],
  ended: ["Ended", ""],
};

const SPEECH = { queued: "waits", speaking: "is being said", spoken: "spoken", interrupted: "interrupted", failed: "failed" };

const PLOTS = [
  { title: "Packets a second", series: ["sent", "received"], least: 60 },
  { title: "Lost packets a second", series: ["theirs", "ours"], least: 5 },
  { title: "Jitter and round trip, ms", series: ["jitter", "round trip"], least: 10 },
  { title: "Quality at the peer (MOS)", series: ["MOS"], levels: [1, 2, 3, 4, 5] },
];

const calls = new Map(); // reports by id
const details = new Map(); // details by id, of those that were looked at
const histories = new Map(); // figures of media by id
const counted = new Map(); // when the media of a call were read last, and what they were
const missed = new Set(); // calls that could not be looked at, and will be
const listeners = new Set();
let chosen = null;
let plots = [];
let following = null;
let refreshing = null;
let turn = 0;
let restsUntil = 0; // nothing is looked at while the token has asked for as much as it may

/** Be told of each event of a call: (type, event). */
export function onCallEvent(listener) {
  listeners.add(listener);
}

const alive = () => [...calls.values()].filter(({ state }) => state !== "ended");
const partyOf = (call) => (call.direction === "inbound" ? call.from : call.to);
/** Without what all have; the whole is in the details. */
const shortened = (uri) => uri.replace(/^sips?:/, "");

/** Of an address, what tells people apart, and the rest with its "@". */
function parts(uri) {
  const short = shortened(uri);
  const at = short.lastIndexOf("@");
  return at < 1 ? [short, ""] : [short.slice(0, at), short.slice(at)];
}

// Following -----------------------------------------------------------------------------------------------------------

/** Follow all calls, from now on; `state` is told how that goes. */
export function followCalls(state) {
  following?.abort();
  following = new AbortController();
  if (!opens("read")) {
    $("calls-loading").hidden = true;
    state("refused", "The token may not see calls.");
    return;
  }
  follow("v1/events", {
    signal: following.signal,
    state: (name, why) => {
      state(name, why);
      // What happened before, or meanwhile, is in the list.
      if (name === "live") refresh();
    },
    event: (type, event) => {
      if (type === "gap") {
        details.clear();
        refresh();
        return;
      }
      if (type.startsWith("call.")) refresh();
      if (calls.get(event.call_id)?.state !== "ended" || event.call_id === chosen) look(event.call_id, type === "call.ended");
      for (const listener of listeners) listener(type, event);
    },
  });
}

/** Ask for the list soon, and once for all who want it now. */
function refresh() {
  refreshing ??= setTimeout(async () => {
    try {
      const told = await ask("GET", "v1/calls", { quiet: true });
      calls.clear();
      for (const call of told.calls) calls.set(call.id, call);
      for (const map of [details, histories, counted]) {
        for (const id of map.keys()) if (!calls.has(id) && id !== chosen) map.delete(id);
      }
      say($("calls-problem"), "");
      for (const { id } of alive().slice(-WATCHED)) if (!details.has(id)) look(id);
    } catch (problem) {
      say($("calls-problem"), problem.message);
      if (problem.retryAfterS !== null) setTimeout(refresh, 1000 * problem.retryAfterS);
    }
    refreshing = null;
    $("calls-loading").hidden = true;
    showList();
    showCall();
  }, REFRESH_MS);
}

/** Read the details of a call, if it is one of those that are watched. */
async function look(id, always = false) {
  const watched = id === chosen || always || alive().slice(-WATCHED).some((call) => call.id === id);
  if (!watched) return;
  try {
    const told = await ask("GET", `v1/calls/${encodeURIComponent(id)}`, { quiet: true });
    details.set(id, told);
    if (calls.has(id)) calls.set(id, told);
    count(told);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.status === 404) details.delete(id);
    if (problem.retryAfterS !== null) {
      restsUntil = performance.now() + 1000 * problem.retryAfterS;
      lookLater(id, problem.retryAfterS);
    }
    return;
  }
  showList();
  if (id === chosen) showCall();
}

/** Look again when that is allowed: this may have been the last there was to see of a call. */
function lookLater(id, afterS) {
  if (missed.has(id)) return;
  missed.add(id);
  setTimeout(() => {
    missed.delete(id);
    look(id, true);
  }, 1000 * afterS);
}

/** Take down what the media of a call have counted since they were read last. */
function count({ id, media, state }) {
  if (media === null || state === "ended") return;
  const atS = performance.now() / 1000;
  const before = counted.get(id);
  if (before !== undefined && atS - before.atS < 0.8) return;
  counted.set(id, { atS, media });
  if (!histories.has(id)) histories.set(id, new History(SPAN_S));
  const rate = (name) => {
    if (before === undefined || media[name] === null || before.media[name] === null) return null;
    return Math.max(0, (media[name] - before.media[name]) / (atS - before.atS));
  };
  histories.get(id).add(atS, [
    [rate("packets_sent"), rate("packets_received")],
    [rate("lost"), rate("peer_lost")],
    [media.jitter_ms, media.rtt_ms],
    [media.mos],
  ]);
}

/** Once a second: the call that is looked at, and one of the others, so that each has a past when its turn comes. */
function tick() {
  showTimes();
  if (performance.now() < restsUntil) return;
  const others = alive().slice(-WATCHED).filter(({ id }) => id !== chosen);
  if (chosen !== null && calls.get(chosen)?.state !== "ended") look(chosen);
  if (others.length && !document.hidden) look(others[turn++ % others.length].id);
}

// The list ------------------------------------------------------------------------------------------------------------

function showList() {
  const sorted = [...calls.values()].sort((a, b) => {
    const ended = (a.state === "ended") - (b.state === "ended");
    return ended || b.created_at.localeCompare(a.created_at);
  });
  const count = alive().length;
  $("calls-count").hidden = count === 0;
  if (count) say($("calls-count"), String(count));
  $("calls-table").hidden = sorted.length === 0;
  $("calls-empty").hidden = sorted.length > 0 || !$("calls-loading").hidden || $("calls-problem").textContent !== "" || !opens("read");
  reconcile($("calls-rows"), sorted.slice(0, SHOWN), ({ id }) => id, rowOf, updateRow);
  restrict();
}

function rowOf({ id, direction }) {
  const way = direction === "inbound" ? "in" : "out";
  return h(
    "tr",
    {},
    h("td", {}, h("span", { class: "badge" })),
    h(
      "td",
      {},
      h(
        "span",
        { class: "with" },
        icon(way),
        h("span", { class: "visually-hidden" }, way === "in" ? "from" : "to"),
        h("span", {}, h("a", { href: `#calls/${encodeURIComponent(id)}` }), h("span", { class: "host" })),
      ),
    ),
    h("td", { class: "narrow-hide with-call-hide" }),
    h("td", { class: "time" }),
    h("td", { class: "says narrow-hide" }, h("span")),
    h("td", {}, h("button", { type: "button", class: "danger", "data-needs": "call", onclick: () => hangUp(id) }, "Hang up")),
  );
}

function updateRow(row, call) {
  const [state, , party, time, says, action] = row.children;
  const [name, tone] = STATES[call.state];
  say(state.firstElementChild, name);
  mark(state.firstElementChild, "data-tone", tone || null);
  const link = row.querySelector("a");
  const [user, host] = parts(partyOf(call));
  say(link, user);
  say(link.nextElementSibling, host);
  link.title = partyOf(call);
  mark(link, "aria-current", call.id === chosen ? "true" : null);
  row.classList.toggle("chosen", call.id === chosen);
  say(party, shortened(call.direction === "inbound" ? call.to : call.from));
  say(time, durationOf(call));
  say(says.firstElementChild, call.state === "ended" ? endOf(call) : wordsOf(details.get(call.id)));
  const button = action.firstElementChild;
  button.hidden = call.state === "ended";
  button.setAttribute("aria-label", `Hang up ${shortened(partyOf(call))}`);
}

function durationOf({ answered_at, ended_at }) {
  if (answered_at === null) return "–";
  return clock(((ended_at === null ? serverNow() : Date.parse(ended_at)) - Date.parse(answered_at)) / 1000);
}

/** What a call is saying, or has said last. */
function wordsOf(told) {
  const speech = told?.speech ?? [];
  const one = speech.find(({ state }) => state === "speaking") ?? speech.findLast(({ state }) => state !== "queued") ?? speech[0];
  return one === undefined ? "" : (one.text ?? "a recording");
}

const words = (reason) => reason.replaceAll("_", " ");

function endOf({ end }) {
  if (end === null) return "";
  const who = { server: "by the server", peer: "by the peer", network: "by the network" }[end.by];
  const status = end.sip_status === null ? "" : `, ${end.sip_status} ${end.sip_reason}`;
  return `${words(end.reason)}, ${who}${status}`;
}

function showTimes() {
  for (const row of $("calls-rows").children) {
    const call = calls.get(row.dataset.key);
    if (call !== undefined && call.state !== "ended") say(row.children[3], durationOf(call));
  }
  const call = details.get(chosen) ?? calls.get(chosen);
  if (call !== undefined) say($("call-time"), durationOf(call));
  showPlots();
}

async function hangUp(id) {
  try {
    await ask("DELETE", `v1/calls/${encodeURIComponent(id)}`);
    announce("The call is being hung up.");
  } catch (problem) {
    say($(id === chosen ? "call-problem" : "calls-problem"), problem.message);
  }
}

// One call ------------------------------------------------------------------------------------------------------------

/** Show the call of that id beside the list; null shows none. */
export function choose(id) {
  const before = chosen;
  chosen = id;
  $("call").hidden = id === null;
  if (id === null) {
    const link = [...$("calls-rows").children].find((row) => row.dataset.key === before)?.querySelector("a");
    showList();
    link?.focus();
    return;
  }
  if (id !== before) {
    for (const form of $("call").querySelectorAll("form")) form.reset();
    for (const place of $("call").querySelectorAll(".problem, .error")) say(place, "");
    $("spoken").replaceChildren();
  }
  say($("call-title"), shortened(partyOf(calls.get(id) ?? { from: "", to: "Call" })) || "Call");
  $("call").scrollIntoView({ block: "nearest" });
  $("call-title").focus();
  showList();
  showCall();
  if (opens("read")) look(id);
}

function showCall() {
  if (chosen === null) return;
  const call = details.get(chosen);
  const known = call ?? calls.get(chosen);
  $("call-acts").hidden = known === undefined || known.state === "ended";
  if (known === undefined) {
    $("call-end").hidden = false;
    say($("call-end"), "This call is not known, or not any more: one that has ended is remembered for some minutes.");
    return;
  }
  const [name, tone] = STATES[known.state];
  say($("call-title"), shortened(partyOf(known)));
  say($("call-state"), name);
  mark($("call-state"), "data-tone", tone || null);
  say($("call-from"), known.from);
  say($("call-to"), known.to);
  $("call-end").hidden = known.end === null;
  say($("call-end"), known.end === null ? "" : `${moment(known.ended_at)}: ${endOf(known)}.`);
  showTimes();
  if (call === undefined) return;
  $("play").hidden = !has("/v1/calls/{id}/play");
  const flags = [call.held ? "on hold" : "", call.paused ? "speech is paused" : "", call.trunk === null ? "" : `trunk ${call.trunk}`];
  say($("call-flags"), flags.filter(Boolean).join(" · "));
  say($("call-codec"), call.media?.codec ?? "–");
  say($("call-first"), call.first_speech_ms === null ? (call.state === "ended" ? "–" : "known at the end") : `${call.first_speech_ms.toFixed(0)} ms`);
  say(acting("pause"), call.paused ? "Resume" : "Pause");
  mark(acting("pause"), "aria-label", call.paused ? "Resume speech" : "Pause speech");
  mark(acting("pause"), "aria-pressed", String(call.paused));
  say(acting("hold"), call.held ? "Take off hold" : "Hold");
  mark(acting("hold"), "aria-pressed", String(call.held));
  const recorded = recordingOf(call) !== undefined;
  say(acting("record"), recorded ? "Stop recording" : "Record");
  acting("record").classList.toggle("recording", recorded);
  showSpoken(call);
  showRecordings(call);
  showOthers();
}

const acting = (act) => $("call").querySelector(`[data-act="${act}"]`);

function showSpoken({ speech }) {
  $("spoken-empty").hidden = speech.length > 0;
  const list = $("spoken");
  const atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 24;
  reconcile(
    list,
    speech,
    ({ id }) => id,
    () => h("li", {}, h("p", { class: "words" }), h("p", { class: "about" })),
    (item, { text, ssml, state, speaker_id, spoken_ms }) => {
      mark(item, "data-state", state);
      say(item.firstElementChild, text ?? "A recording");
      const voice = speaker_id === null || speaker_id === "default" ? "" : ` · ${speaker_id}`;
      const seconds = state === "queued" ? "" : ` · ${(spoken_ms / 1000).toFixed(1)} s`;
      say(item.lastElementChild, `${SPEECH[state]}${seconds}${voice}${ssml ? " · SSML" : ""}`);
    },
  );
  if (atEnd) list.scrollTop = list.scrollHeight;
}

const recordingOf = (call) => call?.recordings?.find(({ state }) => state === "recording");

function showRecordings({ recordings }) {
  $("recordings-part").hidden = recordings.length === 0;
  reconcile(
    $("recordings"),
    recordings,
    ({ id }) => id,
    ({ id, started_at }) =>
      h(
        "li",
        {},
        h("div", {}, h("p", { class: "name" }, `From ${moment(started_at)}`), h("p", { class: "about" })),
        h("button", { type: "button", class: "small", "data-needs": "call", onclick: () => download(id) }, icon("down"), "Download"),
      ),
    (item, { state, duration_ms, reason }) => {
      const length = clock(duration_ms / 1000);
      say(item.querySelector(".about"), state === "recording" ? `${length}, is being recorded` : `${length}, ${words(reason)}`);
      item.querySelector("button").hidden = state === "recording";
    },
  );
  restrict();
}

async function download(id) {
  say($("recordings-problem"), "");
  try {
    const response = await ask("GET", `v1/recordings/${encodeURIComponent(id)}/audio`, { streamed: true });
    save(await response.blob(), `${id}.wav`);
  } catch (problem) {
    say($("recordings-problem"), problem.message);
  }
}

/** The calls that this one could be transferred into. */
function showOthers() {
  const others = alive().filter(({ id, state }) => id !== chosen && state === "up");
  reconcile(
    $("transfer-calls"),
    others,
    ({ id }) => id,
    ({ id }) => h("option", { value: id }),
    (option, call) => mark(option, "label", `the call with ${shortened(partyOf(call))}`),
  );
}

function showPlots() {
  const history = histories.get(chosen);
  $("call-plots").hidden = history === undefined;
  if (history === undefined || $("view-calls").hidden) return;
  const nowS = calls.get(chosen)?.state === "ended" ? history.points.at(-1).atS : performance.now() / 1000;
  plots.forEach((plot, n) => {
    const points = history.points.map(({ atS, values }) => ({ atS, values: values[n] }));
    plot.show({ points, spanS: SPAN_S }, nowS);
  });
}

/** Act in the call that is shown, and read it anew. */
async function act(verb, options = {}) {
  const id = chosen;
  try {
    return await ask("POST", `v1/calls/${encodeURIComponent(id)}/${verb}`, options);
  } finally {
    look(id);
  }
}

async function press(event) {
  const button = event.currentTarget;
  const call = details.get(chosen);
  say($("call-problem"), "");
  button.setAttribute("aria-busy", "true");
  try {
    switch (button.dataset.act) {
      case "pause":
        await act(call?.paused ? "resume" : "pause");
        break;
      case "stop":
        await act("stop");
        break;
      case "hold":
        await act(call?.held ? "unhold" : "hold");
        break;
      case "record":
        if (recordingOf(call) === undefined) await act("record", { json: {} });
        else await act("record/stop");
        break;
      case "hang-up":
        await ask("DELETE", `v1/calls/${encodeURIComponent(chosen)}`);
        break;
    }
    announce(`${button.textContent}: done.`);
  } catch (problem) {
    say($("call-problem"), problem.message);
  } finally {
    button.removeAttribute("aria-busy");
  }
}

async function sayInCall(fields, mode) {
  if (!fields.get("text").trim()) throw missing("text", "Type something to say");
  const json = { text: fields.get("text"), mode: mode || "queue" };
  if (fields.get("speaker_id")) json.speaker_id = fields.get("speaker_id");
  await act("say", { json });
  $("say-text").value = "";
  $("say-text").focus();
  announce("It will be said.");
}

async function dialDigits(fields) {
  const digits = fields.get("digits").trim();
  if (!digits) throw missing("digits", "Type digits, * or #");
  await act("dtmf", { json: { digits } });
  $("digits").reset();
  announce(`${digits} is being dialled.`);
}

async function play(fields) {
  const file = $("play-file").files[0];
  const url = fields.get("url").trim();
  if (!file && !url) throw missing("file", "Choose a file, or type an address");
  if (file) {
    const form = new FormData();
    form.append("file", file, "audio");
    await act("play", { form });
  } else await act("play", { json: { url } });
  $("play").reset();
  announce("It will be played.");
}

async function transfer(fields) {
  const to = fields.get("to").trim();
  if (!to) throw missing("to", "Type an address, or choose another call");
  const told = await act("transfer", { json: calls.has(to) ? { call_id: to } : { to } });
  const status = told.sip_status === null ? "" : ` (${told.sip_status} ${told.sip_reason})`;
  if (told.outcome === "failed") throw new Problem(409, { detail: `The transfer failed${status}; the call goes on as it was.` });
  const how = told.outcome === "succeeded" ? `The call was transferred${status}.` : "The peer has not said what became of the transfer.";
  announce(how);
  toast(how);
}

async function place(fields) {
  const json = { to: fields.get("to").trim(), speaker_id: fields.get("speaker_id"), then: fields.get("stay") ? "stay" : null };
  if (!json.to) throw missing("to", "Type an address, or a number and its trunk");
  if (json.then === null) delete json.then;
  if (fields.get("trunk").trim()) json.trunk = fields.get("trunk").trim();
  if (fields.get("text").trim()) json.text = fields.get("text");
  const call = await ask("POST", "v1/calls", { json, headers: { "Idempotency-Key": crypto.randomUUID() } });
  calls.set(call.id, call);
  details.set(call.id, call);
  $("place").reset();
  $("place-details").open = false;
  announce(`Calling ${shortened(call.to)}.`);
  location.hash = `calls/${encodeURIComponent(call.id)}`;
}

export function startCalls() {
  plots = PLOTS.map((options) => new Plot(options));
  $("call-plots").append(...plots.map(({ element }) => element));
  say($("calls-dial"), `sip:hello@${location.hostname}`);
  setInterval(tick, 1000);
  for (const button of $("call").querySelectorAll("[data-act]")) button.addEventListener("click", press);
  $("call-close").addEventListener("click", () => (location.hash = "calls"));
  onSubmit($("say"), sayInCall);
  onSubmit($("digits"), dialDigits);
  onSubmit($("transfer"), transfer, { busy: $("transfer-busy") });
  onSubmit($("play"), play, { busy: $("play-busy") });
  onSubmit($("place"), place);
}
