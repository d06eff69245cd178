// A telephone in the browser: WebRTC to this server, one call at a time.

import { Problem, ask, has } from "./api.js";
import { $, announce, clock, h, say, showLevel } from "./dom.js";
import { missing, onSubmit, restrict } from "./forms.js";
import { microphone, sound, watchLevel } from "./audio.js";
import { onCallEvent } from "./calls.js";

const OFFER = "/v1/webrtc/offer";
const GATHERING_MS = 3000;
const KEYS = [["1"], ["2", "ABC"], ["3", "DEF"], ["4", "GHI"], ["5", "JKL"], ["6", "MNO"], ["7", "PQRS"], ["8", "TUV"], ["9", "WXYZ"], ["*"], ["0"], ["#"]];

let talk = null; // the call: {connection, microphone, id, to, answeredAt, ends}

async function dial(fields) {
  const to = fields.get("to").trim();
  if (!to) throw missing("to", "Type a name, as “hello”");
  sound();
  const mine = { connection: new RTCPeerConnection(), microphone: null, id: null, to, answeredAt: null, ends: [] };
  talk = mine;
  try {
    busy("Waiting for the microphone…");
    let deaf = "";
    try {
      mine.microphone = await microphone();
    } catch (error) {
      deaf = `You can hear, but not be heard. ${error.message}`;
    }
    if (mine.microphone === null) mine.connection.addTransceiver("audio", { direction: "recvonly" });
    else for (const track of mine.microphone.getTracks()) mine.connection.addTrack(track, mine.microphone);
    mine.connection.addEventListener("track", ({ track, streams }) => hear(mine, streams[0] ?? new MediaStream([track])));
    mine.connection.addEventListener("connectionstatechange", () => changed(mine));
    busy(`Calling ${to}…`);
    await mine.connection.setLocalDescription();
    await gathered(mine.connection);
    const { sdp, type } = mine.connection.localDescription;
    const answer = await ask("POST", OFFER.slice(1), { json: { sdp, type, to } });
    mine.id = answer.call_id;
    await mine.connection.setRemoteDescription({ sdp: answer.sdp, type: answer.type });
    if (deaf) say($("dial").querySelector("[data-problem]"), deaf);
    begin(mine);
  } catch (error) {
    end(mine, "");
    if (error instanceof Problem) throw error;
    throw new Problem(422, { detail: `The call could not be made: ${error.message}.` });
  }
}

function busy(text) {
  say($("dial-busy-text"), text);
  announce(text);
}

/** All candidates go with the offer, since there is one request for it. */
function gathered(connection) {
  return new Promise((resolve) => {
    const done = () => connection.iceGatheringState === "complete" && resolve();
    connection.addEventListener("icegatheringstatechange", done);
    setTimeout(resolve, GATHERING_MS);
    done();
  });
}

function hear(mine, stream) {
  $("phone-audio").srcObject = stream;
  mine.ends.push(watchLevel(stream, (level) => showLevel($("hear-level"), level)));
}

function begin(mine) {
  if (mine.microphone !== null) {
    const track = mine.microphone.getAudioTracks()[0];
    mine.ends.push(watchLevel(mine.microphone, (level) => showLevel($("talk-level"), track.enabled ? level : 0)));
  }
  mine.answeredAt = performance.now();
  const timer = setInterval(() => say($("talk-time"), clock((performance.now() - mine.answeredAt) / 1000)), 250);
  mine.ends.push(() => clearInterval(timer));
  $("talk").hidden = false;
  $("mute").disabled = mine.microphone === null;
  $("dial-go").hidden = true;
  $("dial-to").readOnly = true;
  say($("talk-with"), mine.to);
  $("talk-call").hidden = mine.id === null;
  $("talk-call").href = `#calls/${encodeURIComponent(mine.id)}`;
  say($("keypad-dialled"), "");
  announce(`Connected to ${mine.to}.`);
  $("phone-hang-up").focus();
}

function changed(mine) {
  const state = mine.connection.connectionState;
  if (state === "failed") end(mine, "The connection failed: no media come through. Look at the firewall between this browser and the server.");
  if (state === "closed") end(mine, "The call has ended.");
}

function end(mine, why) {
  if (talk !== mine) return;
  talk = null;
  for (const one of mine.ends) one();
  mine.connection.close();
  for (const track of mine.microphone?.getTracks() ?? []) track.stop();
  $("phone-audio").srcObject = null;
  $("talk").hidden = true;
  $("mute").setAttribute("aria-pressed", "false");
  say($("mute"), "Mute");
  for (const id of ["hear-level", "talk-level"]) showLevel($(id), 0);
  $("dial-go").hidden = false;
  $("dial-to").readOnly = false;
  if (!why) return;
  say($("dial").querySelector("[data-problem]"), "");
  announce(why);
  $("dial-go").focus();
}

async function hangUp() {
  const mine = talk;
  if (mine === null) return;
  end(mine, "You have hung up.");
  try {
    await ask("DELETE", `v1/calls/${encodeURIComponent(mine.id)}`);
  } catch (problem) {
    // What is not there any more has been hung up already.
    if (problem.status !== 404) say($("dial").querySelector("[data-problem]"), problem.message);
  }
}

function mute() {
  const track = talk?.microphone?.getAudioTracks()[0];
  if (track === undefined) return;
  track.enabled = !track.enabled;
  $("mute").setAttribute("aria-pressed", String(!track.enabled));
  say($("mute"), track.enabled ? "Mute" : "Unmute");
  announce(track.enabled ? "You can be heard." : "You are muted.");
}

function press(digit) {
  const sender = talk?.connection.getSenders().find(({ dtmf }) => dtmf?.canInsertDTMF);
  if (talk === null) return;
  if (sender === undefined) {
    say($("keypad-dialled"), "Digits cannot be sent in this call.");
    return;
  }
  sender.dtmf.insertDTMF(sender.dtmf.toneBuffer + digit, 120, 60);
  say($("keypad-dialled"), `${$("keypad-dialled").textContent.replace(/[^0-9*#]/g, "")}${digit}`);
}

/** What this server and this browser cannot do, said before it is tried. */
export function showPhone() {
  const lacks = !has(OFFER) ? "This server takes no calls from browsers." : !window.RTCPeerConnection ? "This browser has no WebRTC." : "";
  $("phone-missing").hidden = lacks === "";
  say($("phone-missing"), lacks);
  if (lacks) $("dial-go").dataset.absent = "";
  else delete $("dial-go").dataset.absent;
  restrict();
}

export function startPhone() {
  $("keypad").append(
    ...KEYS.map(([digit, letters = ""]) =>
      h("button", { type: "button", "data-digit": digit, onclick: () => press(digit) }, digit, h("small", { "aria-hidden": "true" }, letters)),
    ),
  );
  onSubmit($("dial"), dial, { busy: $("dial-busy") });
  $("phone-hang-up").addEventListener("click", hangUp);
  $("mute").addEventListener("click", mute);
  addEventListener("keydown", (event) => {
    if (talk === null || $("view-phone").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^[0-9*#]$/.test(event.key) && event.target.tagName !== "INPUT") press(event.key);
  });
  addEventListener("pagehide", () => talk?.connection.close());
  onCallEvent((type, event) => {
    if (type === "call.ended" && talk !== null && event.call_id === talk.id) end(talk, "The other side has hung up.");
  });
}
