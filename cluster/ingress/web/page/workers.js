// Workers as a table: a page of them at a time, so that a thousand cost what fifty do.

import { h, newId, setAttribute, setText } from "./dom.js";
import { count } from "./format.js";
import { WorkerRow, COLUMNS } from "./worker_row.js";

const PAGE = 50;
const FEW = 12; // up to so many need no search

export class Workers {
  constructor(root) {
    this.rows = new Map();
    this.words = "";
    this.role = null;
    this.sort = null;
    this.page = 0;
    this.search = h("input", { type: "search", placeholder: "Find a worker, node or phase", "aria-label": "Find workers", oninput: () => this.find(this.search.value) });
    this.place = h("span", { class: "muted", "aria-live": "polite" });
    this.back = h("button", { type: "button", class: "quiet", text: "Back", onclick: () => this.#turn(-1) });
    this.next = h("button", { type: "button", class: "quiet", text: "More", onclick: () => this.#turn(1) });
    this.bar = h("div", { class: "bar", hidden: true }, this.search, h("span", { class: "space" }), this.place, this.back, this.next);
    const heads = COLUMNS.map((column) => this.#head(column));
    this.body = h("tbody", { role: "rowgroup" });
    this.empty = h("p", { class: "muted empty", text: "No worker has been heard of yet." });
    const table = h(
      "table",
      { class: "workers", role: "table", "aria-labelledby": "workers-title" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)),
      this.body,
    );
    root.append(this.bar, h("div", { class: "card flush" }, table, this.empty));
  }

  find(words) {
    this.words = words.trim().toLowerCase();
    if (this.search.value !== words) this.search.value = words;
    this.page = 0;
    if (this.picture) this.draw(this.picture);
  }

  only(role) {
    this.role = role;
    this.page = 0;
    if (this.picture) this.draw(this.picture);
  }

  draw(picture) {
    this.picture = picture;
    const chosen = this.#chosen(picture);
    const pages = Math.max(Math.ceil(chosen.length / PAGE), 1);
    this.page = Math.min(this.page, pages - 1);
    const shown = chosen.slice(this.page * PAGE, (this.page + 1) * PAGE);
    this.#place(shown);
    this.bar.hidden = picture.workers.size <= FEW;
    this.back.disabled = this.page === 0;
    this.next.disabled = this.page >= pages - 1;
    this.back.hidden = this.next.hidden = pages === 1;
    setText(this.place, `${count(chosen.length)} of ${count(picture.workers.size)}${pages > 1 ? `, page ${this.page + 1} of ${pages}` : ""}`);
    this.empty.hidden = shown.length > 0;
    if (!shown.length) setText(this.empty, picture.workers.size ? "No worker is like that." : "No worker has been heard of yet.");
  }

  #chosen(picture) {
    let found = [...picture.workers.values()];
    if (this.role) found = found.filter((one) => one.role === this.role);
    if (this.words) found = found.filter((one) => text(one).includes(this.words));
    if (!this.sort) return found;
    const { column, down } = this.sort;
    const by = (one) => column.value(one) ?? -1;
    return found.sort((a, b) => (by(a) < by(b) ? -1 : by(a) > by(b) ? 1 : 0) * (down ? -1 : 1));
  }

  #place(shown) {
    const keys = new Set(shown.map((one) => one.key));
    for (const [name, row] of this.rows) {
      if (keys.has(name)) continue;
      row.remove();
      this.rows.delete(name);
    }
    let before = null;
    for (const worker of shown) {
      let row = this.rows.get(worker.key);
      if (!row) this.rows.set(worker.key, (row = new WorkerRow(worker.key)));
      row.draw(worker);
      before = row.after(this.body, before);
    }
  }

  #head(column) {
    const id = newId("column");
    if (!column.value) return h("th", { scope: "col", role: "columnheader", class: column.kind, text: column.name });
    const button = h("button", { type: "button", id, text: column.name, title: column.title ?? null });
    const head = h("th", { scope: "col", role: "columnheader", class: column.kind }, button);
    button.addEventListener("click", () => this.#order(column, head));
    return head;
  }

  #order(column, head) {
    const down = this.sort?.column === column ? !this.sort.down : true;
    this.sort = { column, down };
    for (const one of head.parentElement.children) one.removeAttribute("aria-sort");
    setAttribute(head, "aria-sort", down ? "descending" : "ascending");
    this.draw(this.picture);
  }

  #turn(by) {
    this.page += by;
    this.draw(this.picture);
  }
}

function text(worker) {
  return [worker.id, worker.key, worker.fleet, worker.role, worker.phase, worker.address, ...worker.ranks.map((rank) => rank.node)].join(" ").toLowerCase();
}
