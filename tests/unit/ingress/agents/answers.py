"""What a model writes, and the tools that it may call."""

from typing import Any

TEXT = "The best of times."
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
THOUGHT = "<think>\nParis it is.\n</think>\n\n"
ANSWERS = {
    "text": TEXT,
    "characters": "naïve 🙂 東京, and\n\nmore ",
    "space": "  ",
    "nothing": "",
    "a thought": THOUGHT + TEXT,
    "a thought alone": "<think>\nWell",
    "a call": CALL,
    "a call after a text": f"Let me look.\n{CALL}",
    "two calls": f"{CALL}\n{TIME}",
    "all": f"{THOUGHT}Let me look.\n{CALL}\n{TIME}",
}
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
RESPONSES_TOOLS: list[Any] = [
    {"type": "function", "name": "weather", "description": "Of a city", "parameters": WEATHER, "strict": False},
    {"type": "function", "name": "time", "parameters": NOTHING, "strict": False},
]
MESSAGES_TOOLS: list[Any] = [
    {"name": "weather", "description": "Of a city", "input_schema": WEATHER},
    {"name": "time", "input_schema": NOTHING},
]
