// One worker's row, and what it says when it is opened.

import { h, setAttribute, setText } from "./dom.js";
import { bytes, count, grouped, ms, percent, perSecond } from "./format.js";

const sum = (values) => values.reduce((total, one) => total + one, 0);
const share = (part, whole) => (whole ? part / whole : null);

export const COLUMNS = [
  { name: "Worker", kind: "name" },
  { name: "Running", kind: "wide", value: (w) => w.num_running },
  { name: "Waiting", kind: "number", value: (w) => w.num_waiting, shown: (w) => waiting(w) },
  { name: "Blocks", kind: "wide", value: (w) => share(w.num_referenced_blocks, w.num_blocks) },
  { name: "Tokens", kind: "number", value: (w) => tokens(w), shown: (w) => perSecond(tokens(w)), title: "of prompts, cached ones too, and of answers, in a second" },
  { name: "KV out", kind: "number", value: (w) => w.rates.kv_bytes_sent ?? 0, shown: (w) => flow(w.rates.kv_bytes_sent) },
  { name: "KV in", kind: "number", value: (w) => w.rates.kv_bytes_received ?? 0, shown: (w) => flow(w.rates.kv_bytes_received) },
  { name: "Cached", kind: "number", value: (w) => cached(w), shown: (w) => percent(cached(w)), title: "of prompt tokens, those found in the prefix cache" },
  { name: "Drafts right", kind: "number", value: (w) => right(w), shown: (w) => percent(right(w)) },
  { name: "Step", kind: "number", value: (w) => w.step_ms, shown: (w) => (w.step_ms ? ms(w.step_ms) : "–") },
];

const SIGNS = { ready: "●", starting: "◐", waiting: "○", draining: "◒", failed: "✕", stopped: "◌", unknown: "?" };

function waiting(worker) {
  return worker.num_waiting && worker.num_waiting_tokens ? `${count(worker.num_waiting)} (${count(worker.num_waiting_tokens)} tok)` : count(worker.num_waiting);
}

function tokens(worker) {
  return (worker.rates.num_prompt_tokens ?? 0) + (worker.rates.num_output_tokens ?? 0);
}

function flow(rate) {
  return rate ? `${bytes(rate)}/s` : "–";
}

function cached(worker) {
  return share(worker.num_prefix_hit_tokens, worker.num_prompt_tokens);
}

function right(worker) {
  return share(sum(worker.accepted_by_place), sum(worker.drafted_by_place));
}

// "decode-1 as prefill" where it does another pool's work now.
export function shownName(worker) {
  const own = /([a-z]+)-\d+b?$/.exec(worker.id)?.[1];
  return worker.role && own !== worker.role && ["prefill", "decode", "mixed"].includes(own) ? `${worker.key} as ${worker.role}` : worker.key;
}

export function state(worker) {
  if (worker.phase === "ready" && !worker.up) return "silent";
  return worker.draining ? "draining" : worker.phase;
}

export class WorkerRow {
  constructor(name) {
    this.sign = h("span", { class: "sign", "aria-hidden": "true" });
    this.name = h("span", {});
    this.word = h("span", { class: "note" });
    this.open = h("button", { type: "button", class: "plain", "aria-expanded": "false", onclick: () => this.#toggle() }, this.sign, this.name);
    this.running = meter();
    this.blocks = meter();
    this.cells = COLUMNS.map((column) => h("td", { role: "cell", class: column.kind, "data-label": column.name }));
    this.cells[0] = h("th", { scope: "row", role: "rowheader", class: "name" }, this.open, this.word);
    this.cells[1].append(this.running.root);
    this.cells[3].append(this.blocks.root);
    this.element = h("tr", { role: "row", "data-worker": name }, this.cells);
    this.more = null;
  }

  draw(worker) {
    this.worker = worker;
    const now = state(worker);
    setText(this.sign, SIGNS[now] ?? "✕");
    setAttribute(this.sign, "class", `sign ${now}`);
    setText(this.name, shownName(worker));
    setText(this.word, [now === "ready" ? "" : now, ranks(worker), trouble(worker)].filter(Boolean).join(" · "));
    this.running.draw([["used", share(worker.num_running, worker.max_sequences)]], worker.max_sequences ? `${count(worker.num_running)}/${count(worker.max_sequences)}` : "–");
    const used = share(worker.num_referenced_blocks, worker.num_blocks);
    const held = share(worker.num_quarantined_blocks, worker.num_blocks);
    this.blocks.draw([["used", used], ["held", held]], worker.num_blocks ? `${percent(used)} of ${count(worker.num_blocks)}` : "–");
    COLUMNS.forEach((column, place) => column.shown && setText(this.cells[place], column.shown(worker)));
    if (this.more) fillMore(this.more.firstChild, worker);
  }

  // Puts it behind `before`, without touching what stands right.
  after(body, before) {
    const wanted = before ? before.nextSibling : body.firstChild;
    if (wanted !== this.element) body.insertBefore(this.element, wanted);
    if (!this.more) return this.element;
    if (this.element.nextSibling !== this.more) this.element.after(this.more);
    return this.more;
  }

  remove() {
    this.element.remove();
    this.more?.remove();
  }

  #toggle() {
    const opens = !this.more;
    setAttribute(this.open, "aria-expanded", String(opens));
    if (opens) {
      this.more = h("tr", { role: "row", class: "more" }, h("td", { role: "cell", colspan: COLUMNS.length }));
      fillMore(this.more.firstChild, this.worker);
      this.element.after(this.more);
    } else {
      this.more.remove();
      this.more = null;
    }
  }
}

// A worker that is well again has its last error in what it says when it is opened.
function trouble(worker) {
  if (worker.phase !== "ready") return worker.error;
  return worker.num_failures ? `failed ${worker.num_failures === 1 ? "once" : `${count(worker.num_failures)} times`} before` : "";
}

function ranks(worker) {
  return worker.ranks.length > 1 ? `${worker.ranks.length} ranks` : "";
}

function meter() {
  const parts = ["used", "held"].map((kind) => h("i", { class: kind }));
  const text = h("span");
  const root = h("span", { class: "meter" }, h("span", { class: "track", "aria-hidden": "true" }, parts), text);
  return {
    root,
    draw(shares, words) {
      shares.forEach(([, part], place) => {
        const width = `${Math.round((part ?? 0) * 1000) / 10}%`;
        if (parts[place].style.width !== width) parts[place].style.width = width;
      });
      setText(text, words);
    },
  };
}

function fillMore(cell, worker) {
  const places = worker.drafted_by_place.map((drafted, place) => `${place + 1}: ${percent(share(worker.accepted_by_place[place] ?? 0, drafted))}`);
  const facts = [
    ["Phase", `${worker.phase}${worker.error && worker.phase !== "ready" ? `: ${worker.error}` : ""}`],
    ["Model", worker.fleet],
    ["Address", worker.address || "–"],
    ["Process", `${worker.pid || "–"}, incarnation ${worker.incarnation.slice(0, 8) || "–"}`],
    ["Blocks", `${grouped(worker.num_referenced_blocks)} used, ${grouped(worker.num_free_blocks)} free or cached, ${grouped(worker.num_quarantined_blocks)} in quarantine`],
    ["States", worker.num_states ? `${grouped(worker.num_states - worker.num_free_states)} of ${grouped(worker.num_states)} used` : ""],
    ["Since its start", `${grouped(worker.num_steps)} steps, ${grouped(worker.num_prompt_tokens)} tokens read (${grouped(worker.num_prefix_hit_tokens)} cached), ${grouped(worker.num_output_tokens)} written, ${grouped(worker.num_preemptions)} preemptions`],
    ["KV", `${bytes(worker.kv_bytes_sent)} sent, ${bytes(worker.kv_bytes_received)} received, ${grouped(worker.num_failed_transfers)} transfers failed`],
    ["Drafts right, by place", places.join(" · ")],
    ["Drafters", worker.drafters.join(", ") + (worker.draft_workers_rest ? " (draft workers rest)" : "")],
    ["Adapters", worker.adapters.join(", ")],
    ["Failures of its slot", worker.num_failures ? `${grouped(worker.num_failures)}, the last one: ${worker.error || "unknown"}` : ""],
    ...worker.ranks.map((rank, place) => [`Rank ${place}`, `node ${rank.node || "–"}, process ${rank.pid || "–"}, cores ${rank.cores.join(" ") || "any"}`]),
  ];
  const shown = facts.filter(([, text]) => text);
  const list = cell.querySelector("dl");
  if (list && list.children.length === shown.length) {
    shown.forEach(([, text], place) => setText(list.children[place].lastChild, text));
    return;
  }
  cell.replaceChildren(h("dl", { class: "facts" }, shown.map(([name, text]) => h("div", {}, h("dt", { text: name }), h("dd", { text })))));
}
