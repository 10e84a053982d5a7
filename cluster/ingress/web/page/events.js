// What happened, the newest first.

import { h, setText } from "./dom.js";
import { clock } from "./format.js";

const SHOWN = 200;

export class Events {
  constructor(root, select) {
    this.root = root;
    this.select = select;
    this.kinds = new Set();
    select.addEventListener("change", () => this.#fill());
    root.tabIndex = 0;
    root.setAttribute("aria-label", "Events, the newest first");
  }

  draw(picture) {
    if (this.events === picture.events) return;
    this.events = picture.events;
    for (const { kind } of this.events) {
      if (this.kinds.has(kind)) continue;
      this.kinds.add(kind);
      this.select.append(h("option", { value: kind, text: kind === "plan" ? "autopilot" : kind }));
    }
    this.#fill();
  }

  #fill() {
    const wanted = this.select.value;
    const chosen = (this.events ?? []).filter((event) => !wanted || event.kind === wanted);
    const rows = chosen.slice(-SHOWN).reverse().map(row);
    this.root.replaceChildren(...(rows.length ? rows : [h("li", { class: "muted", text: "Nothing has happened yet." })]));
  }
}

function row(event) {
  const when = h("time", { datetime: new Date(event.at_s * 1000).toISOString(), title: new Date(event.at_s * 1000).toLocaleString() });
  setText(when, clock(event.at_s));
  const kind = event.kind === "plan" ? "autopilot" : event.kind;
  return h(
    "li",
    { class: event.is_trouble ? "trouble" : "" },
    when,
    h("span", { class: "kind", text: event.is_trouble ? `▲ ${kind}` : kind }),
    h("span", {}, h("b", { text: event.subject }), ` ${event.text}`),
  );
}
