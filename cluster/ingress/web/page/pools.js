// One button for each pool: how many of its workers are ready, and, pressed, its workers alone.

import { h, setAttribute, setText } from "./dom.js";

export class Pools {
  constructor(root, chosen) {
    this.root = root;
    this.chosen = chosen;
    this.buttons = new Map();
    this.role = null;
  }

  draw(picture) {
    const pools = new Map();
    for (const pool of picture.pools) {
      const sum = pools.get(pool.role) ?? { ready: 0, desired: 0, waits: [] };
      sum.ready += pool.num_ready;
      sum.desired += pool.num_desired;
      if (pool.waits) sum.waits.push(pool.waits);
      pools.set(pool.role, sum);
    }
    for (const [role, button] of this.buttons) if (!pools.has(role)) this.#remove(role, button);
    for (const [role, sum] of pools) this.#show(role, sum);
  }

  #remove(role, button) {
    button.remove();
    this.buttons.delete(role);
  }

  #show(role, { ready, desired, waits }) {
    let button = this.buttons.get(role);
    if (!button) {
      button = h("button", { type: "button", class: "pool", "aria-pressed": "false", onclick: () => this.#press(role) });
      this.buttons.set(role, button);
      this.root.append(button);
    }
    const whole = ready >= desired; // while workers are replaced there may be more
    setText(button, `${whole ? "" : "▲ "}${role} ${ready}/${desired}`);
    setAttribute(button, "class", whole ? "pool" : "pool warn");
    setAttribute(button, "title", waits.length ? waits.join("; ") : `workers of the pool ${role} that are ready`);
  }

  #press(role) {
    this.role = this.role === role ? null : role;
    for (const [name, button] of this.buttons) setAttribute(button, "aria-pressed", String(name === this.role));
    this.chosen(this.role);
  }
}
