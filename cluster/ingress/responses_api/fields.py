"""The top fields of a body of /v1/responses."""

from collections.abc import Mapping

from cluster.ingress.agent_fields import Refused
from workers.model.sampling_params import ROWS

# What vLLM's and Baton's other routes take beside OpenAI's own.
SAMPLING = frozenset(ROWS) - {"n", "logprobs", "prompt_logprobs", "max_tokens", "include_stop_str_in_output"}
KNOWN = SAMPLING | {
    "chat_template",
    "chat_template_kwargs",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "metadata",
    "model",
    "parallel_tool_calls",
    "reasoning",
    "stream",
    "stream_options",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
}
# They change no answer: who asks, what it is billed as, how long a cache lasts, bounds of what is never done.
HARMLESS = frozenset(
    {
        "client_metadata",
        "max_tool_calls",  # of built-in tools
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",  # nothing is stored, and each answer says so
        "user",
    }
)
_STATELESS = "stores no conversations: send all items of the conversation in `input`, the last answer's `output` too"
REFUSED: Mapping[str, Refused] = {
    "access_programs": Refused("has none: leave it out", ({},)),
    "background": Refused("answers while you wait: leave it out, and use `stream` for long answers", (False,)),
    "background_options": Refused("answers while you wait: leave it out", ({},)),
    "context_management": Refused("leaves the conversation as it is: shorten `input` yourself", ([],)),
    "conversation": Refused(_STATELESS),
    "image": Refused("reads no images: leave it out", ({},)),
    "logprobs": Refused('gives them with `top_logprobs` and `include: ["message.output_text.logprobs"]`', (False,)),
    "max_completion_tokens": Refused("calls it `max_output_tokens` here"),
    "max_tokens": Refused("calls it `max_output_tokens` here"),
    "messages": Refused("calls them `input` here; for `messages` use /v1/chat/completions"),
    "moderation": Refused("moderates nothing: leave it out"),
    "n": Refused("gives one answer to a request here; for several use /v1/chat/completions", (1,)),
    "previous_response_id": Refused(_STATELESS),
    "prompt": Refused("stores no prompts: send the text in `instructions` and `input`"),
    "prompt_logprobs": Refused("gives them at /v1/completions and /v1/chat/completions"),
    "reasoning_effort": Refused("calls it `reasoning.effort` here"),
    "response_format": Refused("calls it `text.format` here"),
    "truncation": Refused('drops nothing: shorten `input`, and send "disabled" or leave it out', ("disabled",)),
}
