// The figures of now, in one row.

import { h, setAttribute, setText } from "./dom.js";
import { bytes, count, ms, percent, perSecond } from "./format.js";

const TILES = [
  ["Running", (p) => count(total(p, "num_running")), (p) => (p.requests.num_running === 1 ? "1 request" : `${count(p.requests.num_running)} requests`)],
  ["Waiting", (p) => count(total(p, "num_waiting") + p.requests.num_queued), (p) => `${p.requests.num_queued} at the ingress`],
  ["First token, p90", (p) => ms(lately(p).ttft_ms?.[1]), (p) => `SLO ${ms(p.slo.ttft_ms)}`, (p) => over(lately(p).ttft_ms, p.slo.ttft_ms)],
  ["Per token, p90", (p) => ms(lately(p).tpot_ms?.[1]), (p) => `SLO ${ms(p.slo.tpot_ms)}`, (p) => over(lately(p).tpot_ms, p.slo.tpot_ms)],
  ["Within the SLO", (p) => percent(lately(p).attainment), (p) => `goal ${percent(p.slo.attainment)}`, missed],
  ["Written", (p) => perSecond(p.load?.output_tokens_per_s), () => "tokens"],
  ["Read", (p) => perSecond(p.load?.prompt_tokens_per_s), (p) => `${perSecond(p.load?.cached_tokens_per_s)} cached`],
  ["KV blocks used", (p) => percent(share(total(p, "num_referenced_blocks"), total(p, "num_blocks"))), (p) => `of ${count(total(p, "num_blocks"))}`],
  ["KV moved", (p) => (p.load ? `${bytes(p.load.kv_bytes_per_s)}/s` : "–"), (p) => `${total(p, "num_transfers")} on their way`],
  ["Drafts right", (p) => percent(share(p.load?.accepted_per_s, p.load?.drafted_per_s)), (p) => `${perSecond(p.load?.drafted_per_s)} tried`],
];

const SERVES = new Set(["prefill", "decode", "mixed"]);

function total(picture, name) {
  let sum = 0;
  for (const worker of picture.workers.values()) if (SERVES.has(worker.role)) sum += worker[name];
  return sum;
}

function lately(picture) {
  return picture.requests.lately;
}

function over(percentiles, limit) {
  return percentiles !== null && percentiles[1] > limit;
}

function missed(picture) {
  const { attainment } = lately(picture);
  return attainment !== null && attainment < picture.slo.attainment;
}

function share(part, whole) {
  return whole ? part / whole : null;
}

export class Tiles {
  constructor(root) {
    this.cells = TILES.map(([name]) => {
      const value = h("span", { class: "value" });
      const note = h("span", { class: "note" });
      const tile = h("div", { class: "tile" }, h("dt", { text: name }), h("dd", {}, value, note));
      root.append(tile);
      return { value, note, tile };
    });
  }

  draw(picture) {
    if (!picture.requests) return;
    TILES.forEach(([, value, note, isBad], place) => {
      const cell = this.cells[place];
      const bad = isBad?.(picture) ?? false;
      setText(cell.value, value(picture));
      setText(cell.note, bad ? `▲ ${note(picture)}` : note(picture));
      setAttribute(cell.tile, "class", bad ? "tile bad" : "tile");
    });
  }
}
