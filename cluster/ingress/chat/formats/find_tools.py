"""Which format a model writes its calls in: by name, or by what its chat template says."""

from cluster.ingress.chat.formats.deepseek import CALL, DEEPSEEK_V3, DEEPSEEK_V31, FENCE
from cluster.ingress.chat.formats.glm import Glm
from cluster.ingress.chat.formats.harmony import Harmony
from cluster.ingress.chat.formats.json_formats import GRANITE, GRANITE_20B, HERMES, JAMBA, LONGCAT
from cluster.ingress.chat.formats.kimi import SECTION, Kimi
from cluster.ingress.chat.formats.llama_json import LlamaJson
from cluster.ingress.chat.formats.mistral import ARGS, Mistral
from cluster.ingress.chat.formats.named import of_name, of_template
from cluster.ingress.chat.formats.pythonic import Pythonic
from cluster.ingress.chat.formats.qwen3_coder import Qwen3Coder
from cluster.ingress.chat.formats.tool_format import ToolFormat

_HARMONY, _KIMI, _GLM, _QWEN3_CODER = Harmony(), Kimi(), Glm(), Qwen3Coder()
_MISTRAL, _NEW_MISTRAL = Mistral(), Mistral(has_args=True)
_PYTHONIC, _LLAMA_JSON = Pythonic(), LlamaJson()

TOOL_FORMATS: tuple[ToolFormat, ...] = (
    HERMES,
    _QWEN3_CODER,
    _LLAMA_JSON,
    _PYTHONIC,
    _MISTRAL,
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    _HARMONY,
    GRANITE,
    GRANITE_20B,
    _GLM,
    _KIMI,
    LONGCAT,
    JAMBA,
)

# All marks stand in the template. In this order, since later marks occur in templates of earlier formats too.
_MARKS: tuple[tuple[tuple[str, ...], ToolFormat], ...] = (
    (("<|channel|>", "<|message|>"), _HARMONY),
    ((SECTION,), _KIMI),
    ((CALL, FENCE), DEEPSEEK_V3),
    ((CALL,), DEEPSEEK_V31),
    (("[TOOL_CALLS]", ARGS), _NEW_MISTRAL),
    (("[TOOL_CALLS]",), _MISTRAL),
    (("<arg_key>",), _GLM),
    (("<function=", "<parameter="), _QWEN3_CODER),
    (("<|tool_call|>",), GRANITE),
    (("<longcat_tool_call>",), LONGCAT),
    (("<function_call>",), GRANITE_20B),
    (("<tool_calls>",), JAMBA),
    (("<tool_call>",), HERMES),
    (("[func_name1(",), _PYTHONIC),
    (("<|python_start|>",), _PYTHONIC),
    (("<|python_tag|>",), _LLAMA_JSON),
    (("ipython", '"parameters"'), _LLAMA_JSON),
)


def find_tool_format(name: str, template_source: str) -> ToolFormat | None:
    """None: calls are not looked for.

    Args:
        name: auto, none, or a format's.
        template_source: The chat template's text; empty where the model has none.
    Raises:
        ConfigError: No format has this name.
    """
    if name == "none":
        return None
    if name == "auto":
        return of_template(_MARKS, template_source)
    one = of_name(TOOL_FORMATS, name, key="tools.parser", noun="tool calls")
    return _NEW_MISTRAL if one is _MISTRAL and ARGS in template_source else one
