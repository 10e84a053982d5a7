// One request for a chat, and its answer as it comes: choices, times, usage. No drawing here.

import { ask, events } from "./api.js";

class Choice {
  constructor() {
    this.text = "";
    this.reasoning = "";
    this.calls = [];
    this.tokens = []; // of the API's logprobs, or one for each event where there are none
    this.finish = null;
  }
}

export class ChatStream {
  constructor(body) {
    this.body = body;
    this.choices = [];
    this.usage = null;
    this.id = null;
    this.first = null; // ms after the request was sent
    this.last = null;
    this.error = null;
    this.aborting = new AbortController();
  }

  choice(index) {
    while (this.choices.length <= index) this.choices.push(new Choice());
    return this.choices[index];
  }

  abort() {
    this.aborting.abort();
  }

  // `changed` is called after each event. Throws Refused, TypeError and AbortError.
  async run(changed) {
    this.begun = performance.now();
    const response = await ask("v1/chat/completions", { body: this.body, signal: this.aborting.signal });
    this.id = response.headers.get("x-request-id");
    if (!response.headers.get("content-type")?.startsWith("text/event-stream")) {
      this.#whole(await response.json());
      changed();
      return;
    }
    for await (const [, data] of events(response)) {
      if (data === "[DONE]") return;
      this.#take(JSON.parse(data));
      changed();
    }
  }

  #take(event) {
    if (event.error) throw Object.assign(new Error(event.error.message), { code: event.error.code });
    this.id = event.id ?? this.id;
    this.usage = event.usage ?? this.usage;
    for (const one of event.choices ?? []) this.#delta(this.choice(one.index), one.delta ?? {}, one);
  }

  #delta(choice, delta, one) {
    const reasoning = delta.reasoning_content ?? delta.reasoning ?? "";
    if (delta.content || reasoning || delta.tool_calls || one.logprobs?.content?.length) this.#clock();
    choice.text += delta.content ?? "";
    choice.reasoning += reasoning;
    for (const call of delta.tool_calls ?? []) addCall(choice.calls, call);
    this.#tokens(choice, one.logprobs, (delta.content ?? "") + reasoning);
    choice.finish = one.finish_reason ?? choice.finish;
  }

  #tokens(choice, logprobs, text) {
    if (logprobs?.content) choice.tokens.push(...logprobs.content);
    else if (text) choice.tokens.push({ token: text, logprob: null, top_logprobs: [] });
  }

  #whole(answer) {
    this.#clock();
    this.id = answer.id;
    this.usage = answer.usage;
    for (const one of answer.choices) {
      const choice = this.choice(one.index);
      choice.text = one.message.content ?? "";
      choice.reasoning = one.message.reasoning_content ?? one.message.reasoning ?? "";
      choice.calls = one.message.tool_calls ?? [];
      this.#tokens(choice, one.logprobs, choice.text);
      choice.finish = one.finish_reason;
    }
  }

  #clock() {
    this.last = performance.now() - this.begun;
    this.first ??= this.last;
  }
}

function addCall(calls, piece) {
  const call = (calls[piece.index ?? calls.length] ??= { function: { name: "", arguments: "" } });
  call.function.name += piece.function?.name ?? "";
  call.function.arguments += piece.function?.arguments ?? "";
}
