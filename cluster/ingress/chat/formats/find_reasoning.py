"""Which format a model writes its thinking in: by name, or by what its chat template says."""

from cluster.ingress.chat.formats.harmony import HarmonyThinking
from cluster.ingress.chat.formats.kimi import SECTION
from cluster.ingress.chat.formats.markers import SPACE
from cluster.ingress.chat.formats.named import of_name, of_template
from cluster.ingress.chat.formats.reasoning_format import MarkedThinking, ReasoningFormat

QWEN3 = MarkedThinking(name="qwen3", aliases=("think", "deepseek_v3", "holo2", "mimo", "nemotron_v3"))
DEEPSEEK_R1 = MarkedThinking(name="deepseek_r1", aliases=("minimax_m2", "olmo3", "step3"), always=True)
GLM = MarkedThinking(name="glm45", aliases=("glm47", "glm"))
KIMI = MarkedThinking(name="kimi_k2", aliases=("kimi",), before=(SECTION,))
MISTRAL = MarkedThinking(name="mistral", begin=("[THINK]",), end=("[/THINK]",))
SEED = MarkedThinking(name="seed_oss", begin=("<seed:think>",), end=("</seed:think>",))
GRANITE = MarkedThinking(
    name="granite",
    begin=("Here is my thought process:", "Here's my thought process:"),
    end=("Here is my response:", "Here's my response:"),
    space=SPACE,
)
MARKED = (QWEN3, DEEPSEEK_R1, GLM, KIMI, MISTRAL, SEED, GRANITE)
HARMONY = HarmonyThinking()
REASONING_FORMATS: tuple[ReasoningFormat, ...] = (*MARKED, HARMONY)

# All marks stand in the template. In this order, since later marks occur in templates of earlier formats too.
_MARKS: tuple[tuple[tuple[str, ...], ReasoningFormat], ...] = (
    (("<|channel|>", "<|message|>"), HARMONY),
    (("[THINK]",), MISTRAL),
    (("<seed:think>",), SEED),
    (("Here is my thought process:",), GRANITE),
    (("</think>", SECTION), KIMI),
    (("</think>", "<arg_key>"), GLM),
    (("</think>",), QWEN3),
)


def find_reasoning_format(name: str, template_source: str) -> ReasoningFormat | None:
    """None: thinking is not looked for.

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
    return of_name(REASONING_FORMATS, name, key="reasoning.parser", noun="reasoning")
