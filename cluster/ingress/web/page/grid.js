// Many workers at a glance: a square each, darker where there is more to do. Arrow keys walk, Enter finds the worker.

import { byId, h, setText } from "./dom.js";
import { count, percent } from "./format.js";
import { shownName, state } from "./worker_row.js";

const MANY = 24; // from so many workers on
const GAP = 2;
const LEVELS = 5;
const METRICS = {
  running: ["running", (w) => (w.max_sequences ? w.num_running / w.max_sequences : 0)],
  blocks: ["blocks used", (w) => (w.num_blocks ? w.num_referenced_blocks / w.num_blocks : 0)],
  waiting: ["waiting", (w) => Math.min(w.num_waiting / 16, 1)],
};

export class Grid {
  constructor(root, find) {
    this.root = root;
    this.find = find;
    this.chosen = 0;
    this.workers = [];
    const options = Object.entries(METRICS).map(([name, [text]]) => h("option", { value: name, text }));
    this.metric = h("select", { onchange: () => this.#paint() }, options);
    this.scale = h("span", { class: "scale", "aria-hidden": "true" });
    this.word = h("output", { class: "muted", "aria-live": "polite" });
    this.canvas = h("canvas", { tabindex: "0", role: "application", "aria-roledescription": "grid of workers" });
    root.append(
      h("div", { class: "bar" }, h("label", { class: "inline" }, "Darker: more ", this.metric), this.word),
      h("div", { class: "card" }, this.canvas),
    );
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.canvas.addEventListener("pointermove", (event) => this.#tell(this.#at(event)));
    this.canvas.addEventListener("click", (event) => this.#open(this.#at(event)));
    this.canvas.addEventListener("focus", () => this.#tell(this.chosen));
    this.canvas.addEventListener("blur", () => this.#paint());
    new ResizeObserver(() => this.#paint()).observe(this.canvas.parentElement);
  }

  recolour() {
    this.colours = null;
    this.#paint();
  }

  draw(picture) {
    this.root.hidden = picture.workers.size < MANY;
    if (this.root.hidden) return;
    this.workers = [...picture.workers.values()];
    this.canvas.setAttribute("aria-label", `${count(this.workers.length)} workers; the table below has the same. Arrow keys walk, Enter finds one in the table.`);
    this.#paint();
  }

  #paint() {
    if (this.root.hidden || !this.workers.length) return;
    const width = this.canvas.parentElement.clientWidth - 24;
    if (width <= 0) return;
    this.cell = this.workers.length > 400 ? 14 : 22;
    this.columns = Math.max(1, Math.floor((width + GAP) / (this.cell + GAP)));
    const rows = Math.ceil(this.workers.length / this.columns);
    const height = rows * (this.cell + GAP);
    const ratio = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.canvas.style.width = `${width}px`;
      this.canvas.style.height = `${height}px`;
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    this.colours ??= colours();
    const [, level] = METRICS[this.metric.value];
    this.workers.forEach((worker, place) => this.#square(context, worker, place, level(worker)));
    if (document.activeElement === this.canvas) this.#mark(context, this.chosen);
  }

  #spot(place) {
    return [(place % this.columns) * (this.cell + GAP), Math.floor(place / this.columns) * (this.cell + GAP)];
  }

  #square(context, worker, place, level) {
    const [x, y] = this.#spot(place);
    context.fillStyle = this.colours.levels[Math.min(Math.ceil(level * LEVELS), LEVELS)];
    context.fillRect(x, y, this.cell, this.cell);
    if (state(worker) === "ready") return;
    context.strokeStyle = this.colours.bad; // a cross: told apart without colours too
    context.lineWidth = 2;
    context.beginPath();
    context.rect(x + 1, y + 1, this.cell - 2, this.cell - 2);
    context.moveTo(x + 3, y + 3);
    context.lineTo(x + this.cell - 3, y + this.cell - 3);
    context.moveTo(x + this.cell - 3, y + 3);
    context.lineTo(x + 3, y + this.cell - 3);
    context.stroke();
  }

  #mark(context, place) {
    const [x, y] = this.#spot(place);
    context.strokeStyle = this.colours.mark;
    context.lineWidth = 2;
    context.strokeRect(x + 1, y + 1, this.cell - 2, this.cell - 2);
  }

  #at(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - left) / (this.cell + GAP));
    const row = Math.floor((event.clientY - top) / (this.cell + GAP));
    return row * this.columns + Math.min(column, this.columns - 1);
  }

  #tell(place) {
    const worker = this.workers[place];
    if (!worker) return;
    this.chosen = place;
    const [name, level] = METRICS[this.metric.value];
    setText(this.word, `${shownName(worker)}: ${state(worker)}, ${count(worker.num_running)} running, ${percent(level(worker))} ${name}`);
    this.#paint();
  }

  #open(place) {
    const worker = this.workers[place];
    if (!worker) return;
    this.find(worker.key);
    byId("workers").scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns };
    if (event.key === "Enter") this.#open(this.chosen);
    else if (event.key in steps) this.#tell(Math.min(Math.max(this.chosen + steps[event.key], 0), this.workers.length - 1));
    else return;
    event.preventDefault();
  }
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  return {
    levels: Array.from({ length: LEVELS + 1 }, (_, level) => colour(`--level-${level}`)),
    bad: colour("--bad"),
    mark: colour("--text"),
  };
}
