// How the server is, and how it was in the last ten minutes: /health and /metrics, read every two seconds.

import { Problem, ask, opens } from "./api.js";
import { $, h, mark, reconcile, say } from "./dom.js";
import { growth, parse, quantile, sum } from "./metrics.js";
import { History, Plot } from "./plot.js";

const SPAN_S = 600;
const EVERY_MS = 2000;
const PATIENCE = 15; // readings: over so many a quantile is taken, since calls begin less often than the page looks

/** Each plot, and what its lines are: `past` is the reading before, `far` the one half a minute ago. */
const PLOTS = [
  [{ title: "Calls", series: ["calls", "streams"], least: 5 }, ({ now }) => [sum(now, "sip_calls_active"), sum(now, "rtp_streams")]],
  [
    { title: "Speech requests a second", series: ["done", "refused"], least: 1 },
    ({ rate }) => [rate("tts_requests_total") ?? 0, rate("http_refused_total") ?? 0],
  ],
  [
    { title: "First speech of a call", unit: "ms", series: ["median", "99 %"], least: 20 },
    ({ far, now }) => [0.5, 0.99].map((q) => quantile(far, now, "sip_call_first_speech_ms", q)),
  ],
  [
    { title: "Engine, for one utterance", unit: "ms", series: ["median", "99 %"], least: 20 },
    ({ far, now }) => [0.5, 0.99].map((q) => quantile(far, now, "tts_inference_latency_ms", q)),
  ],
  [{ title: "Utterances being made", series: ["now"], least: 4 }, ({ now }) => [sum(now, "tts_active_requests")]],
  [{ title: "Packets a second", series: ["sent", "received"], least: 50 }, ({ rate }) => [rate("rtp_packets_sent_total"), rate("rtp_packets_received_total")]],
  [
    { title: "How late packets leave", unit: "ms", series: ["median", "99 %"], least: 1 },
    ({ past, now }) => [0.5, 0.99].map((q) => inMs(quantile(past, now, "rtp_lateness_seconds", q))),
  ],
  [{ title: "Underruns a second", series: ["speech too late", "ticks too late"], least: 1 }, ({ rate }) => [rate("rtp_underruns_total"), rate("rtp_late_ticks_total")]],
  [{ title: "Packets lost on the way here", unit: "%", series: ["lost"], least: 1 }, ({ past, now }) => [lossOf(past, now)]],
];

const inMs = (seconds) => (seconds === null ? null : seconds * 1000);

function lossOf(past, now) {
  const expected = growth(past, now, "rtp_packets_expected_total");
  const received = growth(past, now, "rtp_packets_received_total");
  return !expected || received === null ? null : Math.max(0, (100 * (expected - received)) / expected);
}

const history = new History(SPAN_S);
const readings = [];
let plots = [];

/** Each tile: its name, what it says, and whether that is good. */
function tilesOf(health, metrics) {
  const told = (name) => (metrics === null ? null : sum(metrics, name));
  const free = told("rtp_ports_free");
  const redis = { up: ["up", "good"], down: ["down", "bad"] }[health.redis] ?? [health.redis, null];
  return [
    ["Server", health.status, health.status === "healthy" ? "good" : "bad"],
    ["New work", health.ready ? "is taken" : "is refused", health.ready ? "good" : "wait"],
    ["Up for", span(health.uptime_s), null],
    ["Engine", health.engine_version || health.engine || "–", health.engine_state === "ready" ? null : "wait"],
    ["Workers", `${health.engine_workers ?? "–"}${health.engine_restarts ? `, ${health.engine_restarts} restarts` : ""}`, health.engine_restarts ? "wait" : null],
    ["Calls", String(health.active_calls ?? "–"), null],
    ["RTP ports free", free === null ? "–" : String(free), free !== null && free < 100 ? "wait" : null],
    ["Real-time pacing", { 1: "yes", 0: "not permitted" }[told("rtp_realtime")] ?? "–", null],
    ["GPU", health.gpu_available ? `${(told("tts_gpu_memory_gb") ?? 0).toFixed(1)} GB in use` : "none", null],
    ["Redis", ...redis],
  ];
}

function span(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

async function read() {
  try {
    const health = await ask("GET", "health", { quiet: true, any: true });
    const metrics = opens("read") ? parse(await ask("GET", "metrics", { quiet: true })) : null;
    say($("health-problem"), health.engine_detail ? `The engine says: ${health.engine_detail}` : "");
    if (metrics !== null) take(metrics);
    show(health, metrics);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    say($("health-problem"), problem.message);
  }
  showPlots();
}

function take(metrics) {
  const atS = performance.now() / 1000;
  const before = readings.at(-1);
  readings.push({ atS, metrics });
  if (readings.length > PATIENCE + 1) readings.shift();
  if (before === undefined) return;
  const rate = (name) => {
    const more = growth(before.metrics, metrics, name);
    return more === null ? null : more / (atS - before.atS);
  };
  const seen = { past: before.metrics, far: readings[0].metrics, now: metrics, rate };
  history.add(atS, PLOTS.map(([, figures]) => figures(seen)));
}

function show(health, metrics) {
  reconcile(
    $("tiles"),
    tilesOf(health, metrics),
    ([name]) => name,
    ([name]) => h("div", {}, h("dt", {}, name), h("dd")),
    (tile, [, text, tone]) => {
      say(tile.lastElementChild, text);
      mark(tile.lastElementChild, "data-tone", tone);
    },
  );
  say($("about"), `Version ${health.version}`);
}

function showPlots() {
  if ($("view-health").hidden) return;
  const nowS = performance.now() / 1000;
  plots.forEach((plot, n) => {
    plot.show({ points: history.points.map(({ atS, values }) => ({ atS, values: values[n] })), spanS: SPAN_S }, nowS);
  });
}

export function startHealth() {
  plots = PLOTS.map(([options]) => new Plot(options));
  $("health-plots").append(...plots.map(({ element }) => element));
  addEventListener("viewchange", showPlots);
  const loop = async () => {
    await read();
    setTimeout(loop, EVERY_MS);
  };
  loop();
}
