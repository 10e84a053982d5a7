// The fields of a request, as a form: what is empty is left out, and the model's own default holds.

import { h, newId } from "./dom.js";

const number = (name, hint, more = {}) => ({ name, hint, type: "number", ...more });
const flag = (name, hint) => ({ name, hint, type: "checkbox" });
const lines = (name, hint) => ({ name, hint, type: "lines" });
const object = (name, hint) => ({ name, hint, type: "json" });
const choice = (name, hint, options) => ({ name, hint, type: "select", options });

const GROUPS = [
  ["Sampling", true, [
    number("temperature", "0: always the likeliest token", { min: 0, step: 0.05 }),
    number("top_p", "of the likeliest that add up to it", { min: 0, max: 1, step: 0.01 }),
    number("top_k", "of the k likeliest; 0: of all", { min: -1, step: 1 }),
    number("min_p", "of those not below this share of the likeliest", { min: 0, max: 1, step: 0.01 }),
    number("max_tokens", "of the answer", { min: 1, step: 1 }),
    number("seed", "equal seeds give equal answers", { step: 1 }),
    number("n", "answers to one request", { min: 1, max: 128, step: 1 }),
  ]],
  ["Penalties", false, [
    number("presence_penalty", "−2 to 2, once for a token of the answer", { min: -2, max: 2, step: 0.1 }),
    number("frequency_penalty", "−2 to 2, each time", { min: -2, max: 2, step: 0.1 }),
    number("repetition_penalty", "above 0; prompt and answer", { min: 0, step: 0.05 }),
    object("logit_bias", "token id to a bias, {\"42\": -100}"),
  ]],
  ["Where it ends", false, [
    lines("stop", "a text on each line"),
    lines("stop_token_ids", "an id on each line"),
    number("min_tokens", "before it may end", { min: 0, step: 1 }),
    flag("ignore_eos", "goes on to max_tokens"),
    flag("include_stop_str_in_output", "the answer ends with the stop text"),
  ]],
  ["Form of the answer", false, [
    choice("response_format", "", ["", "text", "json_object", "json_schema"]),
    object("json_schema", "of response_format json_schema"),
    choice("structured_outputs", "another form", ["", "regex", "choice", "grammar"]),
    { name: "structured_text", hint: "the pattern, the grammar, or a choice on each line", type: "text" },
    choice("skip_special_tokens", "special tokens in the text", ["", "true", "false"]),
  ]],
  ["Thinking and drafts", false, [
    choice("reasoning_effort", "", ["", "none", "minimal", "low", "medium", "high", "xhigh", "max"]),
    choice("include_reasoning", "", ["", "true", "false"]),
    choice("speculation", "tokens guessed ahead; the text is the same", ["", "auto", "none"]),
    choice("chat_template", "", [""]),
    object("chat_template_kwargs", "variables of the template"),
  ]],
  ["Probabilities", false, [
    choice("logprobs", "of each token", ["true", ""]),
    number("top_logprobs", "likely tokens beside it, up to 20", { min: 0, max: 20, step: 1, value: 5 }),
    number("prompt_logprobs", "of the prompt's tokens, up to 20", { min: 0, max: 20, step: 1 }),
  ]],
  ["All else", false, [object("other", "fields of the API as JSON, tools for example; they go last")]],
];

export class Fields {
  constructor(form) {
    this.inputs = new Map();
    this.model = h("select", { id: newId("field"), onchange: () => this.#defaults() });
    this.system = h("textarea", { id: newId("field"), rows: 2 });
    this.stream = h("input", { type: "checkbox", id: newId("field"), checked: true });
    form.append(
      labelled("Model", this.model),
      labelled("System message", this.system),
      h("div", { class: "field check" }, this.stream, h("label", { for: this.stream.id, text: "stream" })),
      ...GROUPS.map(([title, open, fields]) => h("details", { open }, h("summary", { text: title }), h("div", { class: "fields" }, fields.map((field) => this.#field(field))))),
    );
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  // What the server serves to this key: rows of /v1/models.
  offer(models) {
    const before = this.model.value;
    this.models = models;
    this.model.replaceChildren(...models.map((one) => h("option", { value: one.id, text: one.id })));
    if (models.some((one) => one.id === before)) this.model.value = before;
    this.#defaults();
  }

  // The body of a request; throws FieldError.
  read(messages) {
    for (const { input, error } of this.inputs.values()) {
      input.removeAttribute("aria-invalid");
      error.textContent = "";
    }
    const found = {};
    for (const [name, { field, input }] of this.inputs) {
      const value = this.#value(field, input);
      if (value !== undefined) found[name] = value;
    }
    const system = this.system.value.trim();
    const all = system ? [{ role: "system", content: system }, ...messages] : messages;
    return shaped({ model: this.model.value, messages: all, stream: this.stream.checked }, found);
  }

  // Shows what the server says of a field; false: there is no such field here.
  mark(name, text) {
    const entry = this.inputs.get(name);
    if (!entry) return false;
    entry.input.setAttribute("aria-invalid", "true");
    entry.error.textContent = text;
    entry.input.closest("details").open = true;
    entry.input.focus();
    return true;
  }

  #field(field) {
    const id = newId("field");
    const hint = h("span", { class: "note", id: `${id}-hint`, text: field.hint });
    const error = h("span", { class: "wrong", id: `${id}-error`, role: "alert" });
    const input = control(field, id);
    input.setAttribute("aria-describedby", `${id}-hint ${id}-error`);
    this.inputs.set(field.name, { field, input, error });
    const label = h("label", { for: id, text: field.name });
    if (field.type === "checkbox") return h("div", { class: "field check" }, input, label, hint, error);
    return h("div", { class: field.type === "json" || field.type === "lines" || field.type === "text" ? "field tall" : "field" }, label, input, hint, error);
  }

  #defaults() {
    const model = this.models?.find((one) => one.id === this.model.value);
    for (const [name, value] of Object.entries(model?.generation_defaults ?? {})) {
      const entry = this.inputs.get(name);
      if (entry) entry.input.placeholder = String(value);
    }
    if (model?.max_model_len) this.inputs.get("max_tokens").input.placeholder = `≤ ${model.max_model_len}`;
    const templates = ["", ...(model?.chat_templates ?? [])];
    this.inputs.get("chat_template").input.replaceChildren(...templates.map((one) => h("option", { value: one, text: one || "default" })));
  }

  #value(field, input) {
    if (field.type === "checkbox") return input.checked || undefined;
    const text = input.value;
    if (!text.trim()) return this.#bad(field, input);
    if (field.type === "number") return Number(text);
    if (field.type === "lines") return text.split("\n").filter((one) => one !== "");
    if (field.type === "select") return text === "true" ? true : text === "false" ? false : text;
    if (field.type === "text") return text;
    try {
      return JSON.parse(text);
    } catch (problem) {
      throw new FieldError(field.name, `${field.name} is no JSON: ${problem.message}`);
    }
  }

  // A number input that holds no number has an empty value.
  #bad(field, input) {
    if (input.validity?.badInput) throw new FieldError(field.name, `${field.name} is no number`);
    return undefined;
  }
}

export class FieldError extends Error {
  constructor(field, text) {
    super(text);
    this.field = field;
  }
}

function control(field, id) {
  if (field.type === "select") return h("select", { id }, field.options.map((one) => h("option", { value: one, text: one === "" ? "—" : one })));
  if (field.type === "lines" || field.type === "json" || field.type === "text") return h("textarea", { id, rows: 2, spellcheck: "false" });
  return h("input", { id, type: field.type, min: field.min, max: field.max, step: field.step, value: field.value, inputmode: field.type === "number" ? "decimal" : null });
}

function labelled(text, input) {
  return h("div", { class: "field tall" }, h("label", { for: input.id, text }), input);
}

// What the form has for people becomes what the API takes.
export function shaped(body, found) {
  const { response_format: format, json_schema: schema, structured_outputs: kind, structured_text: text, other, top_logprobs: top, ...rest } = found;
  const whole = { ...body, ...rest };
  if (whole.stop_token_ids) whole.stop_token_ids = whole.stop_token_ids.map(integer);
  if (format === "json_schema") whole.response_format = { type: format, json_schema: { name: "answer", schema: schema ?? {} } };
  else if (format) whole.response_format = { type: format };
  if (kind) whole.structured_outputs = { [kind]: kind === "choice" ? (text ?? "").split("\n").filter(Boolean) : (text ?? "") };
  if (whole.logprobs && top !== undefined) whole.top_logprobs = top;
  if (whole.stream) whole.stream_options = { include_usage: true };
  return { ...whole, ...(other ?? {}) };
}

function integer(text) {
  if (!/^\d+$/.test(text.trim())) throw new FieldError("stop_token_ids", `stop_token_ids: ${text} is no token id`);
  return Number(text);
}
