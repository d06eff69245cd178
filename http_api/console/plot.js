// A plot of figures over time: an SVG that fits its place, with what it shows in words beside it.

import { h, reconcile, say, svg } from "./dom.js";

const HEIGHT = 132;
const LEFT = 44;
const [RIGHT, TOP, BOTTOM] = [12, 8, 20];
const SPANS_S = [60, 120, 300, 600];

/** Figures of the last `spanS` seconds; nothing older is kept. A figure that is null is a hole in the line. */
export class History {
  constructor(spanS) {
    this.spanS = spanS;
    this.points = [];
  }

  add(atS, values) {
    this.points.push({ atS, values });
    while (this.points[0].atS < atS - this.spanS) this.points.shift();
  }
}

/** What stands at the ticks of an axis up to `most`: 1, 2 or 5 times a power of ten apart. */
function ticks(most) {
  const rough = most / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, n) => n * step);
}

const short = (value) => {
  if (value >= 10_000) return `${+(value / 1000).toFixed(value >= 100_000 ? 0 : 1)}k`;
  return String(+value.toPrecision(value >= 100 ? 4 : value >= 1 ? 3 : 2));
};

export class Plot {
  /**
   * title   what is shown; `unit` stands behind a figure
   * series  names of the lines, in the order of a point's values
   * least   what the axis reaches at least, so that noise does not look like mountains
   * levels  the ticks of an axis that is always the same
   */
  constructor({ title, unit = "", series, least = 1, levels = null }) {
    this.unit = unit;
    this.series = series;
    this.least = least;
    this.levels = levels;
    this.history = null;
    this.nowS = 0;
    this.pointer = null;
    this.canvas = svg("svg", { class: "plot", role: "img", height: HEIGHT });
    this.readings = h("ul", { class: "readings" });
    this.element = h("figure", { class: "panel" }, h("figcaption", {}, h("h3", {}, title), this.readings), this.canvas);
    this.title = title;
    this.canvas.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.#point(null));
    new ResizeObserver(() => this.#draw()).observe(this.element);
  }

  show(history, nowS) {
    this.history = history;
    this.nowS = nowS;
    this.#draw();
  }

  #point(x) {
    this.pointer = x;
    this.#draw();
  }

  #draw() {
    const width = this.element.clientWidth - 2;
    if (this.history === null || width < LEFT + RIGHT + 20) return;
    const { points } = this.history;
    const spanS = this.#span();
    const all = points.flatMap(({ values }) => values).filter((value) => value !== null);
    const levels = this.levels ?? ticks(Math.max(this.least, ...all));
    const [bottom, top] = [levels[0], levels.at(-1)];
    const x = (atS) => LEFT + (width - LEFT - RIGHT) * (1 - (this.nowS - atS) / spanS);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (Math.min(value, top) - bottom) / (top - bottom));
    const chosen = this.#chosen(points, x);
    this.#tell(points, chosen);
    const drawn = [
      ...levels.flatMap((level) => [
        svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(level), y2: y(level) }),
        svg("text", { class: "tick", x: LEFT - 6, y: y(level) + 4, "text-anchor": "end" }, short(level)),
      ]),
      ...[1, 0.5, 0].map((part) =>
        svg(
          "text",
          { class: "tick", x: x(this.nowS - part * spanS), y: HEIGHT - 4, "text-anchor": ["end", "middle", "start"][part * 2] },
          part === 0 ? "now" : `−${spanS > 60 ? `${(spanS * part) / 60} min` : `${spanS * part} s`}`,
        ),
      ),
      ...this.series.flatMap((_, n) => this.#line(points, n, x, y)),
    ];
    if (chosen !== null) {
      const at = x(chosen.atS);
      drawn.push(svg("line", { class: "cursor", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    this.canvas.setAttribute("width", width);
    this.canvas.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.canvas.replaceChildren(...drawn);
  }

  /** How far back the axis reaches: as far as there is something, in steps, so that a young plot is not a speck. */
  #span() {
    const { points, spanS } = this.history;
    const ageS = points.length ? this.nowS - points[0].atS : 0;
    return SPANS_S.find((step) => step >= ageS && step <= spanS) ?? spanS;
  }

  #chosen(points, x) {
    if (this.pointer === null || !points.length) return null;
    const distance = (point) => Math.abs(x(point.atS) - this.pointer);
    return points.reduce((nearest, point) => (distance(point) < distance(nearest) ? point : nearest));
  }

  /** One line, in as many pieces as its holes make; a piece of a single point is a dot. */
  #line(points, n, x, y) {
    const pieces = [[]];
    for (const { atS, values } of points) {
      if (values[n] === null || values[n] === undefined) pieces.push([]);
      else pieces.at(-1).push(`${x(atS).toFixed(1)},${y(values[n]).toFixed(1)}`);
    }
    const shown = pieces.filter((piece) => piece.length);
    const lines = shown.filter((piece) => piece.length > 1);
    const floor = (HEIGHT - BOTTOM).toFixed(1);
    const area = ([...piece]) => `M${piece[0].split(",")[0]},${floor}L${piece.join("L")}L${piece.at(-1).split(",")[0]},${floor}Z`;
    return [
      n === 0 ? svg("path", { class: "area", d: lines.map(area).join("") }) : null,
      svg("path", { class: `line line-${n}`, d: lines.map((piece) => `M${piece.join("L")}`).join("") }),
      ...shown
        .filter((piece) => piece.length === 1)
        .map(([at]) => svg("circle", { class: `dot line-${n}`, cx: at.split(",")[0], cy: at.split(",")[1], r: 1.75 })),
    ].filter(Boolean);
  }

  /** In words: the figures under the pointer, or the latest, and between what they were. */
  #tell(points, chosen) {
    const point = chosen ?? points.at(-1);
    const unit = this.unit && ` ${this.unit}`;
    const told = (value) => (value === null || value === undefined ? "–" : `${short(value)}${unit}`);
    reconcile(
      this.readings,
      this.series,
      (name) => name,
      (name) => h("li", {}, h("span", { class: `key line-${this.series.indexOf(name)}`, "aria-hidden": "true" }), h("span", {}, name), h("b")),
      (item, name) => say(item.lastElementChild, told(point?.values[this.series.indexOf(name)])),
    );
    const summaries = this.series.map((name, n) => {
      const values = points.map(({ values }) => values[n]).filter((value) => value !== null && value !== undefined);
      if (!values.length) return `${name}: no data yet`;
      return `${name}: now ${told(points.at(-1).values[n])}, between ${told(Math.min(...values))} and ${told(Math.max(...values))}`;
    });
    this.canvas.setAttribute("aria-label", `${this.title}. ${summaries.join(". ")}.`);
  }
}
