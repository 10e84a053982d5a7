"""Texts as models of each format write them, and parts of such texts."""

from cluster.ingress.chat.formats import deepseek

_PARIS = '{"city": "Par\\"is", "days": 2}'
_SECTION, _SECTION_END = deepseek.SECTION, deepseek.SECTION_END
_CALL, _SEPARATOR, _CALL_END = deepseek.CALL, deepseek.SEPARATOR, deepseek.CALL_END
_KIMI = "<|tool_call_begin|>functions.now:{0}<|tool_call_argument_begin|>{{}}<|tool_call_end|>"

WRITTEN: dict[str, list[str]] = {
    "hermes": [
        f'<tool_call>\n{{"name": "get_weather", "arguments": {_PARIS}}}\n</tool_call>',
        '<tool_call>{"arguments": {}, "name": "now"}</tool_call>',
    ],
    "longcat": [f'<longcat_tool_call>\n{{"name": "get_weather", "arguments": {_PARIS}}}\n</longcat_tool_call>'],
    "granite": [
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {_PARIS}}}, {{"name": "now", "arguments": {{}}}}]',
        '<tool_call> [{"name": "now"}]',
    ],
    "granite-20b-fc": ['<function_call> {"name": "now", "arguments": {}}'],
    "jamba": ['<tool_calls>[\n  {"name": "now", "arguments": {}},\n  {"name": "now"}\n]</tool_calls>'],
    "llama3_json": [
        f'{{"name": "get_weather", "parameters": {_PARIS}}}',
        '{"name": "now", "parameters": {}}; {"name": "now", "parameters": {}}',
        '<|python_tag|>{"type": "function", "name": "other", "parameters": {"a": 1}}',
    ],
    "pythonic": [
        '[get_weather(city="Par\\"is", days=2, units={"a": [1, None]}, tags=(), precise=True), now()]',
        "<|python_start|>[now()]<|python_end|>",
    ],
    "mistral": [
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {_PARIS}, "id": "abc"}}, {{"name": "now"}}]',
        f"[TOOL_CALLS]get_weather[ARGS]{_PARIS}[TOOL_CALLS]now[CALL_ID]a1b2c3d4e[ARGS]{{}}",
        f"[TOOL_CALLS]get_weather{_PARIS}",
    ],
    "deepseek_v3": [
        f"{_SECTION}{_CALL}function{_SEPARATOR}get_weather\n```json\n{_PARIS}\n```{_CALL_END}\n"
        f"{_CALL}function{_SEPARATOR}now\n```json\n{{}}\n```{_CALL_END}{_SECTION_END}",
    ],
    "deepseek_v31": [
        f"{_SECTION}{_CALL}get_weather{_SEPARATOR}{_PARIS}{_CALL_END}{_CALL}now{_SEPARATOR}{{}}{_CALL_END}{_SECTION_END}"
    ],
    "kimi_k2": [
        f"<|tool_calls_section_begin|>{_KIMI.format(0)}{_KIMI.format(1)}<|tool_calls_section_end|>",
        f"<|tool_call_section_begin|>{_KIMI.format(0)}<|tool_call_section_end|>",
    ],
    "qwen3_coder": [
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "<parameter=share>\nnull\n</parameter>\n</function>\n</tool_call>",
        "<function=now>\n</function>",
    ],
    "glm45": [
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
        "<arg_key>tags</arg_key>\n<arg_value>['a', 1]</arg_value>\n</tool_call>",
        "<tool_call>now</tool_call>",
    ],
    "openai": [
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        f"<|constrain|>json<|message|>{_PARIS}<|call|>",
        " to=functions.now<|channel|>commentary json<|message|>{}<|call|>",
        "<|channel|>commentary<|message|>So:<|end|><|start|>assistant to=functions.now<|channel|>commentary<|message|>",
    ],
}
FRAGMENTS: dict[str, list[str]] = {
    "hermes": ["<tool_call>", "</tool_call>", '{"name": "now"', '"arguments": ', "{}", '"{}"'],
    "longcat": ["<longcat_tool_call>", "</longcat_tool_call>", '{"name": "now"}'],
    "granite": ["<|tool_call|>", "<tool_call>", '{"name": "now"}', '"arguments": {}'],
    "granite-20b-fc": ["<function_call>", '{"name": "now"}'],
    "jamba": ["<tool_calls>", "</tool_calls>", '{"name": "now"}'],
    "llama3_json": ["<|python_tag|>", ";", '{"name": "now", "parameters": ', '{"name": ', '{"x": 1}', "{}"],
    "pythonic": ["[now(", "get_weather(", "city=", "**{}", "'a\\x41\\", "None", "1.5", "<|python_start|>", ")]"],
    "mistral": ["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", '{"name": "now"', "{}"],
    "deepseek_v3": [_SECTION, _CALL, _SEPARATOR, _CALL_END, _SECTION_END, "```json", "```", "{}"],
    "deepseek_v31": [_SECTION, _CALL, _SEPARATOR, _CALL_END, _SECTION_END, "{}"],
    "kimi_k2": ["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", _KIMI.format(0), "functions.now:0", "{}"],
    "qwen3_coder": [
        "<tool_call>",
        "<function=now>",
        "<parameter=days>",
        "<parameter=city>\n",
        "</parameter>",
        "2",
        "{}",
    ],
    "glm45": [
        "<tool_call>now\n",
        "<arg_key>city</arg_key>",
        "<arg_key>",
        "<arg_value>",
        "</arg_value>",
        "</tool_call>",
    ],
    "openai": [
        "<|start|>assistant",
        "<|channel|>final",
        "<|channel|>analysis",
        "<|message|>",
        "<|end|>",
        "<|call|>",
        "<|channel|>commentary",
        " to=functions.now",
        " to=python",
        "<|constrain|>json",
        "{}",
    ],
}
