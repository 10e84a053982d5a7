"""Tools in a conversation for templates that know none: written into its messages, in the form of Hermes' models.

Models that were not trained for tools follow it as well as any other form, and forced calls always do.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_HEAD = """You can call functions. Each line between <tools> and </tools> is one, as JSON:
<tools>
"""
_TAIL = """
</tools>
To call a function, write a JSON object with its name and its arguments, like this:
<tool_call>
{"name": "the function's name", "arguments": {"the argument's name": "its value"}}
</tool_call>
Results of calls come between <tool_response> and </tool_response>."""


def with_written_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Messages of system, user and assistant alone. `tools` in OpenAI's shape, there may be none."""
    written = list(_plain(messages))
    if not tools:
        return written
    text = _HEAD + "\n".join(_dump(tool["function"]) for tool in tools) + _TAIL
    if written and written[0]["role"] in ("system", "developer"):
        return [{**written[0], "content": f"{written[0]['content']}\n\n{text}"}, *written[1:]]
    return [{"role": "system", "content": text}, *written]


def _plain(messages: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Results in a row become one message of the user: roles take turns in many a template."""
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(f"<tool_response>\n{message['content']}\n</tool_response>")
            continue
        if results:
            yield {"role": "user", "content": "\n".join(results)}
            results = []
        yield _without_calls(message)
    if results:
        yield {"role": "user", "content": "\n".join(results)}


def _without_calls(message: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in message.items() if name != "tool_calls"}
    calls = [f"<tool_call>\n{_dump(call['function'])}\n</tool_call>" for call in message.get("tool_calls", ())]
    if calls:
        plain["content"] = "\n".join([message["content"], *calls] if message["content"] else calls)
    return plain


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
