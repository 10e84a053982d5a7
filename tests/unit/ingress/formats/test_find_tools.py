import pytest

from baton.errors import ConfigError
from cluster.ingress.chat.formats.find_reasoning import REASONING_FORMATS, find_reasoning_format
from cluster.ingress.chat.formats.find_tools import TOOL_FORMATS, find_tool_format
from tests.unit.ingress.formats.reading import WEATHER

# What tells one family's template from another's; each line holds what its templates hold besides.
TEMPLATES = {
    "openai": "{{ '<|start|>assistant<|channel|>analysis<|message|>' }}",
    "kimi_k2": "{{ '<|tool_calls_section_begin|><|tool_call_begin|>' + call.id }}",
    "deepseek_v3": "{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' }}{{ '```json' }}",
    "deepseek_v31": "{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>' }}</think>",
    "mistral": "{{ '[AVAILABLE_TOOLS]' }}{{ '[TOOL_CALLS][' }}",
    "glm45": "<tool_call>{name}\n<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value></think>",
    "qwen3_coder": "<tool_call>\n<function=example>\n<parameter=one>\n1\n</parameter>",
    "granite": "respond only with <|tool_call|> followed by a JSON list of tools",
    "granite-20b-fc": "<|function_call_library|> ... <function_call> {...}",
    "hermes": 'within <tool_call></tool_call> XML tags: {"name": <function-name>, "arguments": <args>}',
    "llama3_json": 'Environment: ipython {"name": function name, "parameters": dictionary} <|python_tag|>',
    "pythonic": "Respond in the format [func_name1(params_name1=params_value1), func_name2(params)] ipython",
    "longcat": "<longcat_tool_call> ...",
    "jamba": "<tool_calls>[ ... ]</tool_calls>",
}
THINKING = {
    "openai_gptoss": "<|channel|>analysis<|message|>",
    "mistral": "[THINK] ... [/THINK]",
    "seed_oss": "<seed:think>",
    "granite": "Write your thoughts after 'Here is my thought process:' and ...",
    "kimi_k2": "<|tool_calls_section_begin|> </think>",
    "glm45": "<arg_key> <think></think>",
    "qwen3": "{{ '<think>\n\n</think>\n\n' }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_tells_its_format_of_calls(name: str) -> None:
    found = find_tool_format("auto", TEMPLATES[name])
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("name", THINKING)
def test_a_template_tells_its_format_of_thinking(name: str) -> None:
    found = find_reasoning_format("auto", THINKING[name])
    assert found is not None
    assert found.name == name


def test_a_format_is_found_by_its_names_and_no_name_means_two() -> None:
    for one in TOOL_FORMATS:
        assert all(find_tool_format(name, "") is one for name in (one.name, *one.aliases))
    for other in REASONING_FORMATS:
        assert all(find_reasoning_format(name, "") is other for name in (other.name, *other.aliases))


def test_none_and_a_template_without_tools_find_nothing() -> None:
    assert find_tool_format("none", "<tool_call>") is None
    assert find_tool_format("auto", "a template without tools") is None


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"tools\.parser: no_such is no format .*auto, none, or one of .*hermes, "):
        find_tool_format("no_such", "")


def test_newer_models_of_mistral_are_forced_into_their_own_form() -> None:
    for name in ("auto", "mistral"):
        found = find_tool_format(name, "[TOOL_CALLS]...[ARGS]")
        assert found is not None
        assert found.tag(WEATHER).begin == "[TOOL_CALLS]get_weather[ARGS]"
