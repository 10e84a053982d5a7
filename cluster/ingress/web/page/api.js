// What the page asks of its server. The key is kept in this tab; EventSource could send none, so streams are read here.

export const BASE = new URL("../", import.meta.url);
const KEY = "baton.key";

export class Refused extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = body?.error?.code ?? null;
    this.field = body?.error?.param ?? null;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

// Throws Refused, TypeError (no network), AbortError.
export async function ask(path, { body, signal } = {}) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const method = body === undefined ? "GET" : "POST";
  const text = body === undefined ? undefined : JSON.stringify(body);
  const response = await fetch(new URL(path, BASE), { method, headers, body: text, signal, cache: "no-store" });
  if (response.ok) return response;
  const error = new Refused(response.status, await response.json().catch(() => null));
  if (error.status === 401) dispatchEvent(new CustomEvent("baton-key", { detail: error }));
  throw error;
}

export async function json(path, options) {
  return (await ask(path, options)).json();
}

// Events of a response as [kind, data] pairs.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const event = parsed(part);
        if (event !== null) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(part) {
  let kind = "message";
  const data = [];
  for (const line of part.split("\n")) {
    if (line.startsWith("event:")) kind = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  return data.length ? [kind, data.join("\n")] : null;
}
