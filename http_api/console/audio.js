// Sound in the page: samples that are played while they arrive, drawn, and kept as a WAV file.

let context = null;

/** The one audio context; call it from a click or a key, or the browser keeps it silent. */
export function sound() {
  context ??= new AudioContext({ latencyHint: "interactive" });
  if (context.state === "suspended") context.resume();
  return context;
}

// Enough for the next piece to be here in time on a busy machine.
const LEAD_S = 0.08;

/** Plays samples, piece by piece, one after the other. */
export class Stream {
  constructor(rateHz) {
    this.rateHz = rateHz;
    this.context = sound();
    this.startedAtS = null;
    this.nextAtS = 0;
    this.playing = new Set();
  }

  push(samples) {
    if (!samples.length) return;
    const buffer = this.context.createBuffer(1, samples.length, this.rateHz);
    buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
    const source = new AudioBufferSourceNode(this.context, { buffer });
    source.connect(this.context.destination);
    const at = Math.max(this.nextAtS, this.context.currentTime + (this.startedAtS === null ? LEAD_S : 0));
    this.startedAtS ??= at;
    source.start(at);
    this.nextAtS = at + buffer.duration;
    this.playing.add(source);
    source.addEventListener("ended", () => this.playing.delete(source));
  }

  /** Seconds of it that were heard. */
  get positionS() {
    return this.startedAtS === null ? 0 : Math.max(0, Math.min(this.context.currentTime, this.nextAtS) - this.startedAtS);
  }

  /** Resolves when all that was pushed has been heard. */
  async drained() {
    while (this.playing.size) await new Promise((resolve) => setTimeout(resolve, 30));
  }

  stop() {
    for (const source of this.playing) source.stop();
    this.playing.clear();
  }
}

/** Samples out of the base64 of little-endian octets. */
export function decoded(base64) {
  const octets = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const view = new DataView(octets.buffer);
  return Int16Array.from({ length: octets.length >> 1 }, (_, n) => view.getInt16(2 * n, true));
}

export function joined(pieces) {
  const all = new Int16Array(pieces.reduce((total, piece) => total + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

/** A WAV file (RIFF) of mono samples. */
export function wav(samples, rateHz) {
  const head = new DataView(new ArrayBuffer(44));
  const write = (at, text) => [...text].forEach((character, n) => head.setUint8(at + n, character.charCodeAt(0)));
  write(0, "RIFF");
  head.setUint32(4, 36 + 2 * samples.length, true);
  write(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true); // PCM
  head.setUint16(22, 1, true); // channels
  head.setUint32(24, rateHz, true);
  head.setUint32(28, 2 * rateHz, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  write(36, "data");
  head.setUint32(40, 2 * samples.length, true);
  const data = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((sample, n) => data.setInt16(2 * n, sample, true));
  return new Blob([head.buffer, data.buffer], { type: "audio/wav" });
}

/** Draw samples as the loudest of each column; what lies before `position` (0 to 1) has been heard. */
export function draw(canvas, samples, position) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const style = getComputedStyle(canvas);
  const [heard, ahead] = [style.getPropertyValue("--accent"), style.getPropertyValue("--control")];
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const columns = Math.max(1, Math.floor((width - 16) / 3));
  for (let column = 0; column < columns; column += 1) {
    const [from, to] = [column, column + 1].map((n) => Math.floor((n * samples.length) / columns));
    let most = 0;
    for (let n = from; n < to; n += 1) most = Math.max(most, Math.abs(samples[n]));
    const tall = Math.max(2, (most / 32768) * (height - 16));
    pen.fillStyle = resolved(canvas, (column + 0.5) / columns <= position ? heard : ahead);
    pen.fillRect(8 + 3 * column, (height - tall) / 2, 2, tall);
  }
}

/** A colour as a canvas understands it: of light-dark(), the one in force. */
function resolved(element, colour) {
  const both = /^light-dark\((.*), (.*)\)$/.exec(colour.trim());
  if (both === null) return colour;
  return isDark(element) ? both[2] : both[1];
}

function isDark(element) {
  const scheme = getComputedStyle(element).colorScheme;
  return scheme === "dark" || (scheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
}

/** How loud a stream of the browser's is: calls `tell` with 0 to 1 (-60 to 0 dB) until the returned function is called. */
export function watchLevel(stream, tell) {
  const source = sound().createMediaStreamSource(stream);
  const analyser = new AnalyserNode(sound(), { fftSize: 1024 });
  source.connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const timer = setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    const power = samples.reduce((total, sample) => total + sample * sample, 0) / samples.length;
    tell(Math.max(0, 1 + (10 * Math.log10(power + 1e-9)) / 60));
  }, 100);
  return () => {
    clearInterval(timer);
    source.disconnect();
  };
}

/** A microphone, or an Error that says what to do. */
export async function microphone() {
  if (!navigator.mediaDevices) {
    throw new Error("A browser gives its microphone to HTTPS and to this machine's own pages only. Open the console by https:// or at localhost.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: true, noiseSuppression: true } });
  } catch (error) {
    if (error.name === "NotAllowedError") throw new Error("The microphone is not allowed. Allow it in the browser, beside the address, and try again.");
    if (error.name === "NotFoundError") throw new Error("There is no microphone. Connect one and try again.");
    throw new Error(`The microphone cannot be used: ${error.message}.`);
  }
}
