"""How much a model shall think, as variables of chat templates: each family's templates know some of these."""

from typing import Any

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def switched(*, on: bool) -> dict[str, Any]:
    """`enable_thinking` is Qwen's and GLM's name, `thinking` DeepSeek's and Granite's."""
    return {"enable_thinking": on, "thinking": on}


def of_effort(effort: str) -> dict[str, Any]:
    return {"reasoning_effort": effort, **(switched(on=False) if effort == "none" else {})}
