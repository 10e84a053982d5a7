// A request as somebody else would send it: quoted for a shell, and as Python.

// One word of a POSIX shell, whatever is in it.
export function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

export function asCurl(url, body) {
  const head = [`curl ${quoted(`${url}v1/chat/completions`)}`, `-H "Authorization: Bearer $BATON_API_KEY"`, `-H 'Content-Type: application/json'`];
  return [...(body.stream ? [head[0].replace("curl ", "curl -N "), ...head.slice(1)] : head), `-d ${quoted(JSON.stringify(body, null, 1))}`].join(" \\\n  ");
}

const OPENAI = new Set([
  "model", "messages", "stream", "stream_options", "temperature", "top_p", "max_tokens", "max_completion_tokens", "n", "stop", "seed", "logprobs",
  "top_logprobs", "presence_penalty", "frequency_penalty", "logit_bias", "response_format", "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort",
]);

// A literal of Python: JSON's strings and numbers are Python's too.
export function literal(value, indent = "") {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const isList = Array.isArray(value);
  const items = isList ? value.map((one) => literal(one, inner)) : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one, inner)}`);
  const [open, close] = isList ? "[]" : "{}";
  const line = `${open}${items.join(", ")}${close}`;
  return line.length <= 80 && !line.includes("\n") ? line : `${open}\n${items.map((one) => `${inner}${one},\n`).join("")}${indent}${close}`;
}

export function asPython(url, body) {
  const own = Object.entries(body).filter(([name]) => OPENAI.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI.has(name)));
  const lines = own.map(([name, value]) => `    ${name}=${literal(value, "    ")},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${literal(extra, "    ")},`);
  const shown = body.stream
    ? ["for chunk in answer:", "    for choice in chunk.choices:", '        print(choice.delta.content or "", end="", flush=True)']
    : ["print(answer.choices[0].message.content)"];
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${JSON.stringify(`${url}v1`)}, api_key=os.environ.get("BATON_API_KEY", "unused"))`,
    "answer = client.chat.completions.create(",
    ...lines,
    ")",
    ...shown,
  ].join("\n");
}
