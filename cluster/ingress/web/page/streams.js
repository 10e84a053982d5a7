// KV on its way: prefill workers at the left, decode workers at the right, and between them what was handed over lately.

import { h, setText, svg } from "./dom.js";
import { bytes, count } from "./format.js";
import { shownName } from "./worker_row.js";

const MOST = 10; // workers of each side: the busiest
const ROW = 34;
const NODE = 200;
const HEIGHT = 26;

export class Streams {
  constructor(root, note) {
    this.root = root;
    this.note = note;
    this.canvas = svg("svg", { class: "streams", role: "img" });
    this.rows = h("tbody");
    const caption = h("caption", { class: "hidden", text: "Hand-overs of the last five seconds, pair by pair" });
    const heads = ["From", "To", "Requests", "Prompt tokens"].map((text) => h("th", { scope: "col", text }));
    const table = h("table", { class: "figures" }, caption, h("thead", {}, h("tr", {}, heads)), this.rows);
    this.table = h("details", {}, h("summary", { text: "Pairs as a table" }), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Pairs" }, table));
    this.empty = h("p", { class: "muted", hidden: true });
    root.append(this.empty, this.canvas, this.table);
    new ResizeObserver(([entry]) => {
      this.width = Math.round(entry.contentRect.width);
      if (this.picture) this.draw(this.picture);
    }).observe(root);
  }

  draw(picture) {
    this.picture = picture;
    if (!this.width) return;
    const width = this.width;
    const workers = [...picture.workers.values()];
    const left = busiest(workers.filter((one) => one.role === "prefill"), "kv_bytes_sent");
    const right = busiest(workers.filter((one) => one.role === "decode"), "kv_bytes_received");
    const isIdle = !left.length || !right.length;
    this.empty.hidden = !isIdle;
    this.canvas.toggleAttribute("hidden", isIdle);
    this.table.hidden = isIdle;
    if (isIdle) return this.#nothing(workers);
    const height = Math.max(left.length, right.length) * ROW;
    const size = Math.min(NODE, width * 0.36);
    const spots = new Map([...placed(left, 0, height, size), ...placed(right, width - size, height, size)]);
    const known = picture.streams.filter((one) => spots.has(`${one.fleet} ${one.from}`) && spots.has(`${one.fleet} ${one.to}`));
    const most = Math.max(...known.map((one) => one.num_prompt_tokens), 1);
    const lines = known.map((one) => line(spots.get(`${one.fleet} ${one.from}`), spots.get(`${one.fleet} ${one.to}`), size, one.num_prompt_tokens / most));
    const nodes = [...spots.values()].map((spot) => node(spot, size));
    this.canvas.setAttribute("width", width);
    this.canvas.setAttribute("height", height);
    this.canvas.setAttribute("aria-label", `${left.length} prefill and ${right.length} decode workers, ${picture.streams.length} pairs that handed over in the last five seconds`);
    this.canvas.replaceChildren(...lines, ...nodes);
    const hidden = workers.filter((one) => one.role === "prefill" || one.role === "decode").length - spots.size;
    const moving = workers.reduce((total, one) => total + (one.rates.kv_bytes_sent ?? 0), 0);
    const flow = moving || known.length ? `${bytes(moving)}/s` : "nothing is handed over just now";
    setText(this.note, `${flow}${hidden > 0 ? `, the busiest of ${count(hidden + spots.size)} workers` : ""}`);
    this.#fill(picture.streams);
  }

  #nothing(workers) {
    const pools = "Workers that read prompts and workers that write answers are not both here: nothing is handed over.";
    setText(this.empty, workers.length ? pools : "No worker has been heard of yet.");
    setText(this.note, "");
  }

  #fill(pairs) {
    const told = JSON.stringify(pairs);
    if (told === this.told) return;
    this.told = told;
    const rows = pairs.map((one) => h("tr", {}, [one.from, one.to, count(one.num_requests), count(one.num_prompt_tokens)].map((text) => h("td", { text }))));
    this.rows.replaceChildren(...(rows.length ? rows : [h("tr", {}, h("td", { colspan: 4, text: "none in the last five seconds" }))]));
  }
}

function busiest(workers, rate) {
  if (workers.length <= MOST) return workers;
  return workers.sort((a, b) => (b.rates[rate] ?? 0) - (a.rates[rate] ?? 0)).slice(0, MOST);
}

function placed(workers, x, height, size) {
  const first = (height - workers.length * ROW) / 2;
  return workers.map((worker, place) => [`${worker.fleet} ${worker.id}`, { worker, x, y: first + place * ROW + (ROW - HEIGHT) / 2, size }]);
}

function line(from, to, size, share) {
  const [x1, x2] = [from.x + size, to.x];
  const [y1, y2] = [from.y + HEIGHT / 2, to.y + HEIGHT / 2];
  const middle = (x1 + x2) / 2;
  const d = `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
  return svg("g", { class: "stream" }, svg("path", { d, class: "bed", "stroke-width": 2 + 6 * share }), svg("path", { d, class: "flow", "stroke-width": 1.5 + 3 * share }));
}

function node({ worker, x, y }, size) {
  const sends = worker.role === "prefill";
  const rate = size >= 130 ? worker.rates[sends ? "kv_bytes_sent" : "kv_bytes_received"] : 0;
  return svg(
    "g",
    { class: `node ${worker.role}` },
    svg("rect", { x: x + 0.5, y: y + 0.5, width: size - 1, height: HEIGHT - 1, rx: 5 }),
    svg("text", { x: x + 8, y: y + 17, text: shortened(shownName(worker), size, rate > 0) }),
    rate ? svg("text", { class: "rate", x: x + size - 8, y: y + 17, "text-anchor": "end", text: `${bytes(rate)}/s` }) : null,
  );
}

function shortened(text, size, hasRate) {
  const most = Math.floor((size - (hasRate ? 72 : 14)) / 6.6);
  return text.length > Math.max(most, 10) ? `${text.slice(0, Math.max(most, 10) - 1)}…` : text;
}
