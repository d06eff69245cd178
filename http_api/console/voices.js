// Every voice: the engine's own, and the speakers that were enrolled; and how one is.

import { ask } from "./api.js";
import { $, announce, clock, h, icon, moment, reconcile, say, showLevel, toast } from "./dom.js";
import { complain, missing, onSubmit, restrict } from "./forms.js";
import { microphone, watchLevel } from "./audio.js";
import { speak } from "./speech.js";

const LONGEST_RECORDING_S = 60;

let voices = [];
let speakers = [];
let recording = null;

/** Ask for all voices anew. */
export async function refreshVoices() {
  const [engine, enrolled] = await Promise.allSettled([ask("GET", "v1/voices"), ask("GET", "v1/speakers")]);
  if (engine.status === "fulfilled") voices = engine.value.voices;
  if (enrolled.status === "fulfilled") speakers = enrolled.value;
  say($("voices-problem"), engine.reason?.message ?? "");
  say($("speakers-problem"), enrolled.reason?.message ?? "");
  const waits = [engine, enrolled].map(({ reason }) => reason?.retryAfterS ?? 0);
  if (Math.max(...waits) > 0) setTimeout(refreshVoices, 1000 * Math.max(...waits));
  fillSelects();
  showVoices();
  showSpeakers(enrolled.status === "fulfilled");
}

/** The choices of every list of voices, with what is chosen kept if it is still there. */
function fillSelects() {
  for (const select of [$("speak-voice"), ...document.querySelectorAll(".voice-select")]) {
    const chosen = select.value;
    const first = select.options[0];
    const group = (label, options) => (options.length ? h("optgroup", { label }, ...options) : null);
    select.replaceChildren(
      ...[
        first,
        group("Enrolled speakers", speakers.map(({ id, name }) => h("option", { value: id }, name))),
        group("Voices of the engine", voices.map(({ id, name }) => h("option", { value: id }, `${name} · ${id}`))),
      ].filter(Boolean),
    );
    if (first.value === "default" && voices.length) say(first, `Default · ${voices[0].name}`);
    select.value = [...select.options].some((option) => option.value === chosen) ? chosen : first.value;
  }
}

function showVoices() {
  const wanted = $("voices-filter").value.trim().toLowerCase();
  const found = voices.filter(({ id, name }) => `${name} ${id}`.toLowerCase().includes(wanted));
  $("voices-empty").hidden = found.length > 0 || voices.length === 0;
  $("voices").hidden = found.length === 0;
  $("voices-count").hidden = voices.length === 0;
  say($("voices-count"), String(voices.length));
  reconcile(
    $("voices"),
    found,
    ({ id }) => id,
    ({ id, name }) =>
      h(
        "li",
        {},
        hearButton(id, name, `This is ${name}.`),
        h("span", {}, h("span", { class: "name" }, name), h("span", { class: "about" }, id)),
      ),
    () => {},
  );
  restrict();
}

function hearButton(id, name, text) {
  return h(
    "button",
    { type: "button", "data-needs": "speak", "aria-label": `Hear ${name}`, onclick: (event) => hear(event.currentTarget, id, text) },
    icon("play"),
  );
}

async function hear(button, id, text) {
  const place = button.closest(".panel").querySelector(".problem");
  say(place, "");
  try {
    await speak({ text, speaker_id: id, sample_rate: 24000 });
  } catch (problem) {
    say(place, problem.message);
  }
}

function showSpeakers(known) {
  $("speakers-empty").hidden = !known || speakers.length > 0;
  reconcile(
    $("speakers"),
    speakers,
    ({ id }) => id,
    ({ id }) => {
      const act = (label, needs, onclick) => h("button", { type: "button", class: "small", "data-needs": needs, onclick }, label);
      const of = () => speakers.find((speaker) => speaker.id === id);
      return h(
        "li",
        {},
        h("div", {}, h("p", { class: "name" }), h("p", { class: "about" }), h("p", { class: "about" })),
        h(
          "div",
          { class: "actions" },
          act("Hear", "speak", (event) => hear(event.currentTarget, id, `Hello, this is the voice of ${of().name}.`)),
          act("Rename", "admin", () => rename(of())),
          act("Delete", "admin", () => remove(of())),
        ),
      );
    },
    (item, speaker) => {
      const [name, about, consent] = item.querySelectorAll("p");
      say(name, speaker.name);
      const kind = speaker.cloning ? "cloned voice" : "voice profile: pitch, range and rate";
      say(about, `${moment(speaker.created_at)} · ${speaker.speech_s.toFixed(1)} s of speech · ${kind}`);
      say(consent, speaker.consent === null ? "No consent noted" : `Consent: ${speaker.consent}`);
      for (const button of item.querySelectorAll("button")) button.setAttribute("aria-label", `${button.textContent} ${speaker.name}`);
    },
  );
  restrict();
}

/** Ask in a dialog; `act` gets what was typed, and a Problem of it is shown there. */
function askFor({ title, text, go, value, act }) {
  const [dialog, form, field] = [$("ask-dialog"), $("ask-form"), $("ask-field")];
  form.reset();
  complain(form, { errors: [], message: "" });
  say($("ask-title"), title);
  say($("ask-text"), text);
  $("ask-text").hidden = text === "";
  say($("ask-go"), go);
  field.hidden = value === null;
  $("ask-value").value = value ?? "";
  dialog.act = act;
  dialog.showModal();
  (value === null ? $("ask-cancel") : $("ask-value")).focus();
  $("ask-value").select();
}

function rename(speaker) {
  askFor({
    title: `Rename ${speaker.name}`,
    text: "",
    go: "Rename",
    value: speaker.name,
    act: async (name) => {
      await ask("PATCH", `v1/speakers/${encodeURIComponent(speaker.id)}`, { json: { name } });
      tell(`${speaker.name} is called ${name} now.`);
    },
  });
}

function remove(speaker) {
  askFor({
    title: `Delete ${speaker.name}?`,
    text: "The recording goes with the voice, and so does all speech in it that was kept. This cannot be undone.",
    go: "Delete",
    value: null,
    act: async () => {
      await ask("DELETE", `v1/speakers/${encodeURIComponent(speaker.id)}`);
      tell(`${speaker.name} is deleted.`);
    },
  });
}

function tell(text) {
  announce(text);
  toast(text);
}

async function record() {
  const place = $("enrol-file-error");
  if (recording !== null) {
    recording.stop();
    return;
  }
  say(place, "");
  let stream;
  try {
    stream = await microphone();
  } catch (error) {
    say(place, error.message);
    return;
  }
  const pieces = [];
  const recorder = new MediaRecorder(stream);
  const beganAt = performance.now();
  const unwatch = watchLevel(stream, (level) => {
    showLevel($("record-level"), level);
    const lasted = (performance.now() - beganAt) / 1000;
    say($("record-time"), clock(lasted));
    if (lasted >= LONGEST_RECORDING_S) recorder.stop();
  });
  recorder.addEventListener("dataavailable", ({ data }) => pieces.push(data));
  recorder.addEventListener("stop", () => {
    unwatch();
    for (const track of stream.getTracks()) track.stop();
    const file = new Blob(pieces, { type: recorder.mimeType });
    recording = null;
    const audio = $("record-audio");
    if (audio.src) URL.revokeObjectURL(audio.src);
    audio.src = URL.createObjectURL(file);
    audio.hidden = false;
    audio.file = file;
    showRecording();
    announce("Recorded. Listen to it, or enrol.");
  });
  recording = recorder;
  recorder.start(1000);
  showRecording();
  announce("Recording. Press Stop when you have read the text.");
}

function showRecording() {
  const button = $("record");
  button.classList.toggle("recording", recording !== null);
  say(button.lastElementChild, recording !== null ? "Stop" : $("record-audio").file ? "Record again" : "Record");
  if (recording === null) showLevel($("record-level"), 0);
}

async function enrol(fields) {
  const byFile = fields.get("source") === "file";
  const file = byFile ? $("enrol-file").files[0] : $("record-audio").file;
  if (!fields.get("name").trim()) throw missing("name", "The speaker needs a name");
  if (recording !== null) throw missing("file", "The recording is still running: press Stop first");
  if (!file) throw missing("file", byFile ? "Choose an audio file" : "Record something first");
  const form = new FormData();
  form.append("name", fields.get("name").trim());
  if (fields.get("consent").trim()) form.append("consent", fields.get("consent").trim());
  form.append("file", file, byFile ? "recording" : "microphone.webm");
  const speaker = await ask("POST", "v1/speakers", { form });
  $("enrol").reset();
  const audio = $("record-audio");
  audio.file = null;
  audio.hidden = true;
  say($("record-time"), clock(0));
  showRecording();
  showSource();
  tell(`${speaker.name} is enrolled: ${speaker.speech_s.toFixed(1)} s of speech.`);
  await refreshVoices();
}

function showSource() {
  const byFile = $("enrol").elements.source.value === "file";
  $("enrol-by-file").hidden = !byFile;
  $("enrol-by-microphone").hidden = byFile;
  say($("enrol-file-error"), "");
}

export function startVoices() {
  $("voices-filter").addEventListener("input", showVoices);
  $("record").addEventListener("click", record);
  for (const radio of $("enrol").elements.source) radio.addEventListener("change", showSource);
  onSubmit($("enrol"), enrol, { busy: $("enrol-busy") });
  onSubmit($("ask-form"), async (fields) => {
    await $("ask-dialog").act(fields.get("name").trim());
    $("ask-dialog").close();
    await refreshVoices();
  });
  $("ask-cancel").addEventListener("click", () => $("ask-dialog").close());
}
