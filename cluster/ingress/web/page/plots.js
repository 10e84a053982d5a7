// The last ten minutes: small plots side by side, and the same figures as a table.

import { h, setAttribute, setText } from "./dom.js";
import { bytes, clock, count, ms, percent, perSecond } from "./format.js";
import { Plot } from "./plot.js";

const share = (part, whole) => (whole ? part / whole : null);
const at = (name, place) => (point) => point[name]?.[place] ?? null;

const PLOTS = [
  {
    title: "Time to first token",
    shown: ms,
    limit: (picture) => picture.slo.ttft_ms,
    lines: [["p50", at("ttft_ms", 0)], ["p90", at("ttft_ms", 1)], ["p99", at("ttft_ms", 2)]],
  },
  {
    title: "Time per output token",
    shown: ms,
    limit: (picture) => picture.slo.tpot_ms,
    lines: [["p50", at("tpot_ms", 0)], ["p90", at("tpot_ms", 1)], ["p99", at("tpot_ms", 2)]],
  },
  {
    title: "Within the SLO",
    shown: percent,
    limit: (picture) => picture.slo.attainment,
    most: 1,
    lines: [["share of requests", (point) => share(point.num_met, point.num_ended)]],
  },
  {
    title: "Tokens",
    shown: perSecond,
    lines: [["written", (point) => point.output_tokens_per_s], ["read", (point) => point.prompt_tokens_per_s]],
  },
  {
    title: "Sequences",
    shown: count,
    lines: [["running", (point) => point.num_running], ["waiting", (point) => point.num_waiting]],
  },
  {
    title: "KV blocks used",
    shown: percent,
    most: 1,
    lines: [["of all", (point) => share(point.num_used_blocks, point.num_blocks)]],
  },
  {
    title: "KV from prefill to decode",
    shown: (value) => (value === null ? "–" : `${bytes(value)}/s`),
    lines: [["sent", (point) => point.kv_bytes_per_s]],
  },
  {
    title: "Draft tokens",
    shown: perSecond,
    lines: [["tried", (point) => point.drafted_per_s], ["right", (point) => point.accepted_per_s]],
  },
];

export class Plots {
  constructor(root, button, table) {
    this.plots = PLOTS.map((spec) => new Plot(root, spec));
    this.table = table;
    this.button = button;
    button.addEventListener("click", () => this.#toggle());
  }

  draw(picture) {
    if (!picture.slo) return;
    this.points = picture.trend;
    for (const plot of this.plots) plot.draw(picture.trend, plot.spec.limit?.(picture) ?? null);
    if (!this.table.hidden && this.last !== this.points) this.#fill();
  }

  #toggle() {
    this.table.hidden = !this.table.hidden;
    setAttribute(this.button, "aria-expanded", String(!this.table.hidden));
    setText(this.button, this.table.hidden ? "As a table" : "Hide the table");
    if (!this.table.hidden) this.#fill();
  }

  #fill() {
    this.last = this.points;
    const columns = PLOTS.flatMap((spec) => spec.lines.map(([name, value]) => ({ spec, name, value })));
    const head = columns.map(({ spec, name }) => h("th", { scope: "col", text: `${spec.title}, ${name}` }));
    const rows = [...(this.points ?? [])].reverse().map((point) =>
      h(
        "tr",
        {},
        h("th", { scope: "row", text: clock(point.at_s) }),
        columns.map(({ spec, value }) => h("td", { text: shown(spec, value(point)) })),
      ),
    );
    const caption = h("caption", { class: "hidden", text: "The last ten minutes in steps of five seconds, newest first" });
    const header = h("thead", {}, h("tr", {}, h("th", { scope: "col", text: "At" }), head));
    this.table.replaceChildren(h("table", { class: "figures" }, caption, header, h("tbody", {}, rows)));
  }
}

function shown(spec, value) {
  return value === null || value === undefined ? "–" : spec.shown(value);
}
