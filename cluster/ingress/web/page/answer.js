// One answer in the conversation: its text as it comes, then how it was made.

import { BASE, json } from "./api.js";
import { h, setText } from "./dom.js";
import { count, digits, grouped, ms, percent } from "./format.js";
import { asCurl, asPython } from "./snippets.js";
import { timeline } from "./timeline.js";
import { steps, Tokens } from "./tokens.js";

export class Answer {
  constructor(stream) {
    this.stream = stream;
    this.told = null;
    this.body = h("div", { class: "body" });
    this.facts = h("dl", { class: "facts inline-facts" });
    this.tabs = h("div", { class: "tabs" });
    this.panel = h("div", { class: "panel", hidden: true });
    this.root = h("article", { class: "message answer", "aria-label": "Answer", "aria-busy": "true" }, this.body, this.facts, this.tabs, this.panel);
    this.parts = [];
  }

  draw() {
    this.stream.choices.forEach((choice, place) => this.#part(place).draw(choice));
    this.#facts();
  }

  // The stream has ended, well or not.
  async end(problem) {
    if (problem) this.body.append(h("p", { class: "wrong", text: problem }));
    this.draw();
    this.root.setAttribute("aria-busy", "false");
    this.#tabs();
    if (!this.stream.id) return;
    this.told = await json(`cluster/requests/${encodeURIComponent(this.stream.id)}`).catch((error) => ({ missing: error.message }));
    this.#facts();
    this.#open?.();
  }

  #part(place) {
    while (this.parts.length <= place) {
      const part = new Part(this.parts.length);
      this.parts.push(part);
      this.body.append(part.root);
    }
    return this.parts[place];
  }

  #facts() {
    const { stream, told } = this;
    const written = stream.usage?.completion_tokens ?? stream.choices.reduce((sum, one) => sum + one.tokens.length, 0);
    const cached = stream.usage?.prompt_tokens_details?.cached_tokens ?? told?.num_cached_tokens ?? 0;
    const span = stream.last - stream.first;
    const facts = [
      ["First token", stream.first === null ? "" : ms(stream.first)],
      ["Speed", written > 1 && span > 0 ? `${digits(((written - stream.choices.length) / span) * 1000)} tokens/s` : ""],
      ["Written", written ? `${grouped(written)} tokens` : ""],
      ["Prompt", stream.usage ? `${grouped(stream.usage.prompt_tokens)} tokens, ${grouped(cached)} cached` : ""],
      ["Drafts", told?.num_drafted_tokens ? `${count(told.num_accepted_tokens)} of ${count(told.num_drafted_tokens)} right (${percent(told.num_accepted_tokens / told.num_drafted_tokens)})` : ""],
      ["Served by", told?.decode ? [told.prefill, told.decode].filter(Boolean).join(" → ") + (told.draft ? `, drafted by ${told.draft}` : "") : ""],
      ["Ended", stream.choices.map((one) => one.finish).filter(Boolean).join(", ")],
    ].filter(([, text]) => text);
    const same = this.facts.children.length === facts.length;
    if (same) facts.forEach(([, text], place) => setText(this.facts.children[place].lastChild, text));
    else this.facts.replaceChildren(...facts.map(([name, text]) => h("div", {}, h("dt", { text: name }), h("dd", { text }))));
  }

  #open = null;

  #tabs() {
    const panels = { Tokens: () => this.#tokens(), Timeline: () => this.#timeline(), curl: () => this.#code(asCurl), Python: () => this.#code(asPython) };
    const buttons = Object.entries(panels).map(([name, make]) => {
      const button = h("button", { type: "button", class: "quiet", "aria-expanded": "false", text: name });
      button.addEventListener("click", () => this.#press(button, buttons, make));
      return button;
    });
    this.tabs.append(...buttons);
  }

  #press(button, buttons, make) {
    const opens = button.getAttribute("aria-expanded") === "false";
    for (const one of buttons) one.setAttribute("aria-expanded", String(opens && one === button));
    this.panel.hidden = !opens;
    this.#open = opens ? () => this.#fill([make()].flat()) : null;
    this.#open?.();
    if (opens) this.panel.scrollIntoView({ block: "nearest" });
  }

  // What is there already stays where it is, and keeps the focus.
  #fill(parts) {
    const there = [...this.panel.childNodes];
    if (parts.length !== there.length || parts.some((part, place) => part !== there[place])) this.panel.replaceChildren(...parts);
  }

  #tokens() {
    const story = this.told?.prompts?.[0]?.choices ?? [];
    this.views ??= this.stream.choices.map(() => new Tokens());
    return this.stream.choices.map((choice, place) => {
      const view = this.views[place];
      view.show(choice.tokens, steps(story.find((one) => one.choice === place), choice.tokens.length));
      return view.root;
    });
  }

  #timeline() {
    if (!this.told) return h("p", { class: "muted", text: "Asking …" });
    if (this.told.missing) return h("p", { class: "muted", text: this.told.missing });
    return timeline(this.told);
  }

  #code(write) {
    const text = write(BASE.href, this.stream.body);
    const copied = h("span", { class: "note", role: "status" });
    const copy = h("button", { type: "button", class: "quiet", text: "Copy" });
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text).then(() => setText(copied, "copied"), () => setText(copied, "this browser allows no copying here"));
    });
    return [h("div", { class: "bar" }, copy, copied), h("pre", { tabindex: "0", "aria-label": "The same request" }, h("code", { text }))];
  }
}

class Part {
  constructor(place) {
    this.thinking = h("p", { class: "text" });
    this.thoughts = h("details", { class: "thoughts", hidden: true }, h("summary", { text: "Thinking" }), this.thinking);
    this.text = h("p", { class: "text" });
    this.calls = h("div");
    this.root = h("div", { class: "choice" }, place ? h("h3", { text: `Answer ${place + 1}` }) : null, this.thoughts, this.text, this.calls);
  }

  draw(choice) {
    this.thoughts.hidden = !choice.reasoning;
    append(this.thinking, choice.reasoning);
    append(this.text, choice.text);
    if (choice.calls.length) this.calls.replaceChildren(...choice.calls.map((call) => h("pre", { tabindex: "0" }, h("code", { text: `${call.function.name}(${call.function.arguments})` }))));
  }
}

// What is new goes behind what is there, so that a selection stays.
function append(element, text) {
  const old = element.textContent;
  if (text === old) return;
  if (text.startsWith(old)) element.append(text.slice(old.length));
  else element.textContent = text;
}
