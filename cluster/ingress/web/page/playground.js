// A chat with the server's models.

import { json } from "./api.js";
import { Answer } from "./answer.js";
import { ChatStream } from "./chat_stream.js";
import { byId, h, perFrame } from "./dom.js";
import { FieldError, Fields } from "./fields.js";

const WIDE = matchMedia("(min-width: 60rem)");

export class Playground {
  constructor() {
    this.fields = new Fields(byId("settings"));
    this.log = byId("log");
    this.prompt = byId("prompt");
    this.messages = [];
    this.stream = null;
    byId("settings-box").open = WIDE.matches;
    byId("ask").addEventListener("submit", (event) => this.#send(event));
    byId("stop").addEventListener("click", () => this.stream?.abort());
    byId("clear").addEventListener("click", () => this.#clear());
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("ask").requestSubmit();
    });
    this.#clear();
  }

  // Asks again what there is for this key.
  async load() {
    const { data } = await json("v1/models");
    this.fields.offer(data);
    byId("send").disabled = data.length === 0;
    if (!data.length) this.#say("wrong", "This API key is for none of the models that are served here.");
  }

  async #send(event) {
    event.preventDefault();
    const text = this.prompt.value.trim();
    if (!text || this.stream) return;
    const messages = [...this.messages, { role: "user", content: text }];
    const body = this.#body(messages);
    if (!body) return;
    this.hint?.remove();
    this.prompt.value = "";
    this.log.append(h("article", { class: "message user", "aria-label": "You" }, h("p", { class: "text", text })));
    await this.#answer(body, messages);
  }

  #body(messages) {
    try {
      return this.fields.read(messages);
    } catch (error) {
      if (!(error instanceof FieldError) || !this.fields.mark(error.field, error.message)) throw error;
      byId("settings-box").open = true;
      this.fields.mark(error.field, error.message);
      return null;
    }
  }

  async #answer(body, messages) {
    const stream = (this.stream = new ChatStream(body));
    const answer = new Answer(stream);
    const draw = perFrame(() => {
      const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 80;
      answer.draw();
      if (atEnd) this.log.scrollTop = this.log.scrollHeight;
    });
    this.log.append(answer.root);
    this.log.scrollTop = this.log.scrollHeight;
    this.#running(true);
    let problem = "";
    try {
      await stream.run(draw);
    } catch (error) {
      problem = stream.aborting.signal.aborted ? "Stopped." : this.#problem(error);
    }
    this.stream = null;
    this.#running(false);
    const said = stream.choices[0]?.text;
    if (said) this.messages = [...messages, { role: "assistant", content: said }];
    else if (problem) this.prompt.value = messages.at(-1).content;
    await answer.end(problem);
    this.log.scrollTop = this.log.scrollHeight;
  }

  #problem(error) {
    if (error.field && this.fields.mark(error.field, error.message)) byId("settings-box").open = true;
    return error instanceof TypeError ? "The server does not answer." : error.message;
  }

  #running(runs) {
    byId("stop").hidden = !runs;
    byId("send").hidden = runs;
  }

  #say(kind, text) {
    this.hint = h("p", { class: `hint ${kind}`, text });
    this.log.replaceChildren(this.hint);
  }

  #clear() {
    this.stream?.abort();
    this.messages = [];
    this.#say("muted", "Ask something. Each answer says how long it took, which workers served it, what was cached and which tokens were guessed ahead.");
    this.prompt.focus({ preventScroll: true });
  }
}
