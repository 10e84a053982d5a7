// Where the time of one request went, from /cluster/requests: bars over one scale, and the same as a list.

import { h } from "./dom.js";
import { bytes, grouped, ms } from "./format.js";

// [name, start_s, end_s, words] of what happened, in order.
export function bars(told) {
  const found = told.phases.map((one) => [one.name, one.start_s, one.end_s, ""]);
  const prompt = told.prompts[0];
  if (!prompt) return found;
  found.push(["queue", prompt.queued_s, prompt.admitted_s, ""]);
  for (const attempt of prompt.attempts) {
    const again = attempt.attempt ? `, attempt ${attempt.attempt + 1}` : "";
    for (const worker of attempt.workers) {
      found.push([`waits on ${worker.worker}${again}`, worker.received_s, worker.scheduled_s, ""]);
      for (const chunk of worker.chunks) found.push([`reads on ${worker.worker}${again}`, chunk.start_s, chunk.end_s, `${grouped(chunk.num_tokens)} tokens`]);
    }
    const moved = attempt.transfer;
    if (moved) found.push([`KV to ${attempt.decode}${again}`, moved.start_s, moved.end_s, bytes(moved.num_bytes)]);
  }
  for (const choice of prompt.choices) {
    const which = prompt.choices.length > 1 ? ` answer ${choice.choice + 1}` : "";
    found.push([`writes${which}`, choice.first_token_s, choice.last_token_s, `${grouped(choice.num_tokens)} tokens in ${grouped(choice.num_outputs)} outputs`]);
  }
  return found.filter(([, start, end]) => start !== null && start !== undefined && end !== null && end !== undefined);
}

export function timeline(told) {
  const all = bars(told);
  const end = Math.max(...all.map(([, , one]) => one), told.e2e_s ?? 0, 1e-6);
  const rows = all.map(([name, start, stop, words]) => {
    const bar = h("i", { style: { left: `${(start / end) * 100}%`, width: `${Math.max(((stop - start) / end) * 100, 0.3)}%` } });
    bar.className = name.split(" ")[0].toLowerCase();
    return h("li", {}, h("span", { class: "what", text: name }), h("span", { class: "track", "aria-hidden": "true" }, bar), h("span", { class: "when", text: `${ms((stop - start) * 1000)}${words ? ` · ${words}` : ""}` }));
  });
  return h("ol", { class: "timeline", "aria-label": "Where the time went" }, rows);
}
