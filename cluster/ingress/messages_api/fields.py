"""The top fields of a body of /v1/messages."""

from collections.abc import Mapping

from cluster.ingress.agent_fields import Refused
from workers.model.sampling_params import ROWS

# What Baton's other routes take beside Anthropic's own; `stop` is `stop_sequences` here.
SAMPLING = frozenset(ROWS) - {"n", "logprobs", "prompt_logprobs", "max_tokens", "stop", "include_stop_str_in_output"}
OF_PROMPT = frozenset(
    {
        "chat_template",
        "chat_template_kwargs",
        "messages",
        "model",
        "output_config",
        "output_format",  # the older name of `output_config.format`
        "system",
        "thinking",
        "tool_choice",
        "tools",
    }
)
KNOWN = SAMPLING | OF_PROMPT | {"max_tokens", "metadata", "stop_sequences", "stream"}
# They change no answer: who asks, where, what it is billed as, what is cached (here: all that fits).
HARMLESS = frozenset(
    {
        "betas",
        "billing_policy",
        "cache_control",
        "inference_geo",
        "service_tier",
        "user_profile_id",
        "workspace_id",
    }
)
_KEPT_THOUGHTS = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}  # asks to leave all as it is
REFUSED: Mapping[str, Refused] = {
    "compaction": Refused("leaves conversations as they are: shorten `messages` yourself"),
    "container": Refused("runs no code: leave it out"),
    "context_management": Refused(
        "leaves conversations as they are: shorten `messages` yourself", ({}, {"edits": []}, _KEPT_THOUGHTS)
    ),
    "diagnostics": Refused("keeps no earlier requests to compare with: leave it out", ({},)),
    "fallback_credit_token": Refused("serves one model: leave it out"),
    "fallbacks": Refused("serves one model: leave it out", ([], "default")),
    "max_completion_tokens": Refused("calls it `max_tokens` here"),
    "mcp_servers": Refused("calls no servers: send their tools in `tools`, and call them in your program", ([],)),
    "n": Refused("gives one answer to a request here; for several use /v1/chat/completions", (1,)),
    "prompt_logprobs": Refused("gives them at /v1/completions and /v1/chat/completions"),
    "speed": Refused("has one speed: leave it out", ("standard",)),
    "stop": Refused("calls it `stop_sequences` here"),
    "thread": Refused("stores no conversations: send all of `messages`"),
}
