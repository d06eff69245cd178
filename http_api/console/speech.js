// Text in, and heard as it arrives: with how long the first of it took, and how it looks.

import { Problem, ask } from "./api.js";
import { $, announce, save, say } from "./dom.js";
import { missing, onSubmit } from "./forms.js";
import { Stream, decoded, draw, joined, wav } from "./audio.js";
import { eventsOf } from "./sse.js";

let speaking = null; // what is being said and heard: {controller, stream}
let last = null; // what was said last: {order, samples, rateHz}

/** Be silent. */
export function hush() {
  speaking?.controller.abort();
  speaking?.stream.stop();
  speaking = null;
}

/**
 * Have something spoken, and play it while it comes; returns when all has been heard, or when something else is.
 *
 * progress  is called with what has come: {samples, positionS, firstMs, figures, kept}
 * complete  is called with all samples, when no more will come
 */
export async function speak(order, progress = () => {}, complete = () => {}) {
  hush();
  const mine = { controller: new AbortController(), stream: new Stream(order.sample_rate) };
  speaking = mine;
  const pieces = [];
  const told = { samples: new Int16Array(0), positionS: 0, firstMs: null, figures: null, kept: false };
  const show = () => {
    if (speaking === mine) progress({ ...told, positionS: mine.stream.positionS });
  };
  const ticking = setInterval(show, 50);
  try {
    const askedAt = performance.now();
    const response = await ask("POST", "v1/synthesize/stream", {
      json: { ...order, format: "pcm" },
      signal: mine.controller.signal,
      streamed: true,
    });
    told.kept = response.headers.get("X-Cache") === "hit";
    for await (const { type, data } of eventsOf(response.body)) {
      if (type === "audio") {
        told.firstMs ??= performance.now() - askedAt;
        const samples = decoded(data);
        pieces.push(samples);
        mine.stream.push(samples);
        told.samples = joined(pieces);
      } else if (type === "done") {
        told.figures = JSON.parse(data);
      } else if (type === "error") {
        const problem = JSON.parse(data);
        throw new Problem(problem.status, problem);
      }
    }
    show();
    if (told.figures === null && speaking === mine) throw new Problem(0, {});
    complete(told.samples);
    await mine.stream.drained();
    show();
    return told;
  } catch (error) {
    if (mine.controller.signal.aborted) return told;
    throw error;
  } finally {
    clearInterval(ticking);
    if (speaking === mine) speaking = null;
  }
}

function orderOf(fields) {
  const text = fields.get("text");
  const kind = fields.get("kind");
  if (!text.trim()) throw missing("text", "Type something to say");
  return {
    [kind]: text,
    speaker_id: fields.get("speaker_id"),
    sample_rate: Number(fields.get("sample_rate")),
    speed: Number(fields.get("speed")),
  };
}

async function submit(fields) {
  const order = orderOf(fields);
  const audio = $("heard-audio");
  audio.pause();
  $("speak-stop").disabled = false;
  let announced = false;
  const progress = (now) => {
    last = { order, samples: now.samples, rateHz: order.sample_rate };
    show(now);
    if (now.firstMs !== null && !announced) {
      announced = true;
      announce(`Speaking, after ${now.firstMs.toFixed(0)} milliseconds.`);
    }
  };
  await speak(order, progress, (samples) => {
    if (!samples.length) return;
    if (audio.src) URL.revokeObjectURL(audio.src);
    audio.src = URL.createObjectURL(wav(samples, order.sample_rate));
  });
}

function show({ samples, positionS, firstMs, figures, kept }) {
  if (firstMs === null) return;
  const lengthS = samples.length / last.rateHz;
  $("heard-empty").hidden = true;
  $("heard").hidden = false;
  draw($("heard-wave"), samples, positionS / lengthS);
  $("heard-wave").setAttribute("aria-label", `Waveform of ${lengthS.toFixed(1)} seconds of speech`);
  say($("heard-first"), `${firstMs.toFixed(0)} ms`);
  say($("heard-rtf"), figures === null ? "…" : figures.rtf.toPrecision(2));
  say($("heard-length"), `${lengthS.toFixed(2)} s`);
  say($("heard-source"), figures === null ? "…" : kept ? "cache" : figures.model_version);
}

async function download(fields) {
  const format = fields.get("format");
  let file;
  if (format === "wav") file = wav(last.samples, last.rateHz);
  else {
    const telephone = format === "mulaw" || format === "alaw";
    const order = { ...last.order, format, sample_rate: telephone ? 8000 : last.rateHz };
    file = await (await ask("POST", "v1/synthesize", { json: order, streamed: true })).blob();
  }
  save(file, `speech.${format === "mulaw" ? "ulaw" : format}`);
}

export function startSpeech() {
  const form = $("speak");
  onSubmit(form, submit, { busy: $("speak-busy") });
  new MutationObserver(() => {
    $("speak-stop").disabled = form.getAttribute("aria-busy") !== "true";
  }).observe(form, { attributeFilter: ["aria-busy"] });
  onSubmit($("download"), download);
  $("speak-stop").addEventListener("click", hush);
  form.elements.text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.elements.speed.addEventListener("input", (event) => say($("speak-speed-is"), `${Number(event.target.value).toFixed(1)}×`));
  for (const radio of form.elements.kind) {
    radio.addEventListener("change", () => {
      const [text, wrapped] = [form.elements.text, /^\s*<speak[\s>]/];
      if (radio.value === "ssml" && radio.checked && !wrapped.test(text.value)) {
        const inner = text.value.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
        text.value = `<speak>${inner}</speak>`;
      } else if (radio.value === "text" && radio.checked && wrapped.test(text.value)) {
        const inner = text.value.replace(/<[^>]*>/g, " ").replace(/\s+/g, " ").trim();
        text.value = inner.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
      }
    });
  }
  const redraw = () => {
    const audio = $("heard-audio");
    if (last !== null && !$("heard").hidden) draw($("heard-wave"), last.samples, audio.currentTime / (last.samples.length / last.rateHz));
  };
  $("heard-audio").addEventListener("timeupdate", redraw);
  $("heard-audio").addEventListener("play", hush);
  addEventListener("themechange", redraw);
  new ResizeObserver(redraw).observe($("heard-wave"));
}
