// One plot of a few lines over time, as SVG. Arrow keys, or a pointer, show the figures of one moment.

import { h, newId, setAttribute, setText, svg } from "./dom.js";
import { clock } from "./format.js";

const HEIGHT = 132;
const LEFT = 54;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 20;
const SPAN_S = 600;

// The least of 1, 2, 2.5 or 5 times a power of ten that is not below `value`.
export function roundedUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const factor of [1, 2, 2.5, 5, 10]) if (factor * power >= value * 0.999) return factor * power;
  return 10 * power;
}

export class Plot {
  constructor(root, spec) {
    this.spec = spec;
    this.points = [];
    this.selected = null;
    const title = newId("plot");
    this.note = h("span", { class: "note" });
    this.keys = spec.lines.map(([name], place) => {
      const value = h("b");
      return { value, key: h("span", { class: `key series-${place}` }, h("i"), `${name} `, value) };
    });
    this.canvas = svg("svg", { class: "plot", tabindex: "0", role: "img", "aria-label": spec.title, height: HEIGHT });
    const legend = h("figcaption", {}, h("h3", { id: title, text: spec.title }), this.note, h("div", { class: "keys" }, this.keys.map((one) => one.key)));
    root.append(h("figure", { class: "card" }, legend, this.canvas));
    this.canvas.addEventListener("keydown", (event) => this.#step(event));
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => this.#select(null));
    this.canvas.addEventListener("blur", () => this.#select(null));
    new ResizeObserver(([entry]) => {
      this.width = Math.round(entry.contentRect.width);
      this.#paint();
    }).observe(this.canvas);
  }

  draw(points, limit) {
    if (this.points === points && this.limit === limit) return;
    this.points = points;
    this.limit = limit;
    this.#paint();
  }

  #paint() {
    const { points, width } = this;
    if (!width || !points.length) return;
    this.end = points.at(-1).at_s;
    const values = this.spec.lines.map(([, value]) => points.map((point) => value(point) ?? null));
    const most = Math.max(...values.flat().map((value) => value ?? 0), (this.limit ?? 0) * 1.15);
    this.most = this.spec.most ?? roundedUp(most);
    this.values = values;
    const lines = values.flatMap((line, place) => this.#line(line, place));
    this.cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    const isEmpty = values.every((line) => line.every((value) => value === null));
    const nothing = svg("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - BOTTOM - 16, "text-anchor": "middle", text: "no request has ended yet" });
    this.canvas.replaceChildren(...this.#frame(), ...lines, ...(isEmpty ? [nothing] : []), ...this.#limit(), this.cursor);
    this.#tell();
  }

  #x(point) {
    return LEFT + (1 - (this.end - point.at_s) / SPAN_S) * (this.width - LEFT - RIGHT);
  }

  #y(value) {
    return TOP + (1 - Math.min(value / this.most, 1)) * (HEIGHT - TOP - BOTTOM);
  }

  #frame() {
    const lines = [0, 0.5, 1].flatMap((part) => {
      const y = this.#y(part * this.most);
      const text = this.spec.shown(part * this.most);
      return [
        svg("line", { class: "rule", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }),
        svg("text", { x: LEFT - 6, y: y + 3.5, "text-anchor": "end", text }),
      ];
    });
    const times = [10, 5, 0].map((minutes) => {
      const x = LEFT + (1 - minutes / 10) * (this.width - LEFT - RIGHT);
      const anchor = minutes === 10 ? "start" : minutes ? "middle" : "end";
      return svg("text", { x, y: HEIGHT - 4, "text-anchor": anchor, text: minutes ? `−${minutes} min` : "now" });
    });
    return [...lines, ...times];
  }

  #limit() {
    if (this.limit === null || this.limit > this.most) return [];
    const y = this.#y(this.limit);
    return [
      svg("line", { class: "limit", x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }),
      svg("text", { class: "limit", x: LEFT + 2, y: y + 4, text: "SLO" }),
    ];
  }

  // A line is broken where nothing is known; a point without neighbours is a dot.
  #line(values, place) {
    const runs = [];
    values.forEach((value, index) => {
      if (value === null) return;
      const spot = [this.#x(this.points[index]), this.#y(value)];
      if (index && values[index - 1] !== null) runs.at(-1).push(spot);
      else runs.push([spot]);
    });
    const path = runs.filter((run) => run.length > 1).map((run) => `M${run.map((spot) => spot.map((one) => one.toFixed(1)).join(" ")).join("L")}`);
    const dots = runs.filter((run) => run.length === 1).map(([[x, y]]) => svg("circle", { class: `series-${place}`, cx: x, cy: y, r: 2 }));
    return [svg("path", { class: `series-${place}`, d: path.join("") }), ...dots];
  }

  #tell() {
    const last = this.points.length - 1;
    const index = this.selected ?? this.values.reduce((best, line) => Math.max(best, line.findLastIndex((value) => value !== null)), 0);
    const chosen = Math.min(index, last);
    this.keys.forEach(({ value }, place) => setText(value, this.#shown(this.values[place][chosen])));
    setText(this.note, this.selected === null ? "" : clock(this.points[chosen].at_s));
    const words = this.spec.lines.map(([name], place) => `${name} ${this.#shown(this.values[place][chosen])}`);
    setAttribute(this.canvas, "aria-label", `${this.spec.title}. At ${clock(this.points[chosen].at_s)}: ${words.join(", ")}. Arrow keys move in time.`);
    if (this.selected === null) return setAttribute(this.cursor, "visibility", "hidden");
    const x = this.#x(this.points[chosen]);
    for (const [name, value] of [["x1", x], ["x2", x], ["visibility", "visible"]]) setAttribute(this.cursor, name, String(value));
  }

  #shown(value) {
    return value === null || value === undefined ? "–" : this.spec.shown(value);
  }

  #select(index) {
    if (!this.values || index === this.selected) return;
    this.selected = index;
    this.#tell();
  }

  #step(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !this.points.length) return;
    event.preventDefault();
    const last = this.points.length - 1;
    this.#select(Math.min(Math.max((this.selected ?? last) + steps[event.key], 0), last));
  }

  #point(event) {
    if (!this.points.length) return;
    const { left } = this.canvas.getBoundingClientRect();
    const back = (1 - (event.clientX - left - LEFT) / (this.width - LEFT - RIGHT)) * SPAN_S;
    const place = this.points.findLastIndex((point) => point.at_s <= this.end - back + 2.5);
    this.#select(Math.max(place, 0));
  }
}
