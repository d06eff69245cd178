// What /metrics says (Prometheus text exposition 0.0.4), and what happened between two readings of it.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Samples by name: [{labels, value}]. */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : LINE.exec(line);
    if (found === null) continue;
    const [, name, labels = "", value] = found;
    const sample = { labels: Object.fromEntries([...labels.matchAll(LABEL)].map((m) => [m[1], m[2]])), value: number(value) };
    if (samples.has(name)) samples.get(name).push(sample);
    else samples.set(name, [sample]);
  }
  return samples;
}

const number = (text) => (text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text));

/** The sum of all samples of that name, with these labels; null if there is none. */
export function sum(samples, name, labels = {}) {
  const chosen = (samples.get(name) ?? []).filter((sample) =>
    Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
  );
  return chosen.length ? chosen.reduce((total, sample) => total + sample.value, 0) : null;
}

/** How much a counter grew; null if it is not known, as after a restart of the server. */
export function growth(before, now, name, labels) {
  const [from, to] = [sum(before, name, labels), sum(now, name, labels)];
  return from === null || to === null || to < from ? null : to - from;
}

/** The quantile of what a histogram saw between two readings, interpolated in its bucket; null if it saw nothing. */
export function quantile(before, now, name, q) {
  const totals = new Map();
  for (const [samples, sign] of [[now, 1], [before, -1]]) {
    for (const { labels, value } of samples.get(`${name}_bucket`) ?? []) {
      const bound = number(labels.le);
      totals.set(bound, (totals.get(bound) ?? 0) + sign * value);
    }
  }
  const buckets = [...totals].sort(([a], [b]) => a - b);
  const count = buckets.at(-1)?.[1] ?? 0;
  if (count <= 0) return null;
  let [lower, below] = [0, 0];
  for (const [bound, total] of buckets) {
    if (total >= q * count) {
      return bound === Infinity ? lower : lower + ((bound - lower) * (q * count - below)) / (total - below);
    }
    [lower, below] = [bound, total];
  }
  return lower;
}
