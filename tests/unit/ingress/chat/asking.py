"""What the tests of chats ask with."""

from typing import Any

USER: dict[str, Any] = {"role": "user", "content": "How is the weather?"}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def tool(name: str = "get_weather", parameters: Any = SCHEMA, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "Tells.", "parameters": parameters, **more}}


def call(call_id: Any = "call_1", name: Any = "get_weather", arguments: Any = '{"city": "Rome"}') -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def assistant(*calls: dict[str, Any], content: Any = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


def result(call_id: Any = "call_1", content: Any = "sunny") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def written_call(city: str, name: str = "get_weather") -> str:
    """As Hermes' and Qwen's models write it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{"city": "{city}"}}}}\n</tool_call>'
