// An answer token by token: how likely each was, and which had been guessed ahead. One tab stop; arrow keys walk.

import { h, setAttribute } from "./dom.js";
import { digits, ms, percent } from "./format.js";

// For each token of a choice its step, from the timeline: {at_s, place, of, isDraft}; null: it is not known.
export function steps(choice, num) {
  const found = new Array(num).fill(null);
  if (!choice || choice.outputs_per_mark !== 1) return found;
  let token = 0;
  choice.outputs.forEach(([at_s, num_tokens, num_drafted], step) => {
    for (let place = 0; place < num_tokens && token < num; place += 1, token += 1) {
      found[token] = { at_s, step, of: num_tokens, isDraft: num_drafted > 0 && place < num_tokens - 1, num_drafted };
    }
  });
  return token === num || choice.num_tokens === num || choice.num_tokens === num + 1 ? found : new Array(num).fill(null);
}

export class Tokens {
  constructor() {
    this.card = h("div", { class: "token-card", role: "status", "aria-live": "polite" });
    this.list = h("div", { class: "tokens", role: "listbox", "aria-label": "Tokens of the answer", tabindex: "0" });
    const legend = h("p", { class: "legend" }, "Darker: less likely. ", h("span", { class: "token drafted", text: "Dotted" }), ": guessed ahead, and right.");
    this.root = h("div", { class: "token-view" }, h("div", {}, this.list, legend), this.card);
    this.list.addEventListener("keydown", (event) => this.#key(event));
    this.list.addEventListener("focus", () => this.#choose(this.chosen ?? 0));
    this.list.addEventListener("pointerover", (event) => this.#over(event));
  }

  // Again when more is known of the same answer: who walks through it stays where they are.
  show(tokens, stepsOf) {
    const chosen = this.chosen ?? null;
    this.tokens = tokens;
    this.steps = stepsOf;
    this.chosen = null;
    this.items = tokens.map((one, place) => this.#item(one, place));
    this.list.replaceChildren(...this.items);
    this.card.replaceChildren(h("span", { class: "muted", text: "Point at a token, or walk with the arrow keys." }));
    if (chosen !== null && chosen < this.items.length) this.#choose(chosen);
  }

  #item(one, place) {
    const level = one.logprob === null ? "none" : Math.min(4, Math.floor((1 - Math.exp(one.logprob)) * 5));
    const drafted = this.steps[place]?.isDraft ? " drafted" : "";
    return h("span", { role: "option", "aria-selected": "false", id: `${this.prefix()}-${place}`, class: `token unsure-${level}${drafted}`, "data-place": place, "aria-label": one.token.trim() ? null : JSON.stringify(one.token), text: visible(one.token) });
  }

  prefix() {
    return (this.id ??= `token-${Math.random().toString(36).slice(2)}`);
  }

  #over(event) {
    const place = event.target.dataset?.place;
    if (place !== undefined) this.#choose(Number(place));
  }

  #key(event) {
    const moves = { ArrowRight: 1, ArrowDown: 10, ArrowLeft: -1, ArrowUp: -10, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.#choose(Math.min(Math.max((this.chosen ?? 0) + moves[event.key], 0), this.items.length - 1));
  }

  #choose(place) {
    if (!this.items?.length) return;
    if (this.chosen !== null) setAttribute(this.items[this.chosen], "aria-selected", "false");
    this.chosen = place;
    setAttribute(this.items[place], "aria-selected", "true");
    setAttribute(this.list, "aria-activedescendant", this.items[place].id);
    this.#tell(this.tokens[place], this.steps[place]);
  }

  #tell(one, step) {
    const words = [one.logprob === null ? "" : `${percent(Math.exp(one.logprob))} likely (logprob ${digits(one.logprob)})`, stepWords(step)];
    const others = (one.top_logprobs ?? []).map((other) => {
      const share = Math.exp(other.logprob);
      const bar = h("i", { style: { width: `${(share * 100).toFixed(1)}%` } });
      const name = h("code", { text: visible(other.token) });
      return h("li", { class: other.token === one.token ? "chosen" : "" }, name, h("span", { class: "track", "aria-hidden": "true" }, bar), h("span", { text: percent(share) }));
    });
    this.card.replaceChildren(
      h("div", {}, h("code", { text: visible(one.token) }), " ", words.filter(Boolean).join(" · ")),
      ...(others.length ? [h("ol", { class: "others" }, others)] : []),
    );
  }
}

function stepWords(step) {
  if (!step) return "";
  const kind = step.isDraft ? "a draft that was right" : step.num_drafted ? "sampled after its drafts" : "sampled";
  return `${kind}, output ${step.step + 1} at ${ms(step.at_s * 1000)}${step.of > 1 ? `, ${step.of} tokens at once` : ""}`;
}

function visible(text) {
  return text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥\t") || "∅";
}
