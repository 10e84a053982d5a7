"""`thinking` and `output_config` of /v1/messages: how much a model shall think, and the form of its answer."""

from typing import Any

from cluster.ingress.fields import shorten
from cluster.ingress.reading import mapping, member, only, refusal, whole, word
from cluster.ingress.structured.output import JsonSchema
from cluster.ingress.thinking import of_effort, switched

_KINDS = ("adaptive", "disabled", "enabled")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


def parse_thinking(value: Any, max_tokens: int | None) -> tuple[dict[str, Any], bool]:
    """Variables of the template, and whether thoughts are shown. `adaptive` leaves it to the model.

    Raises: InvalidRequestError.
    """
    thinking = mapping(value, "thinking")
    kind = word(thinking.get("type"), "thinking.type", _KINDS)
    only(thinking, {"type", "display"} | ({"budget_tokens"} if kind == "enabled" else set()), "thinking")
    display = thinking.get("display")
    if display not in (None, "summarized", "omitted"):  # a whole thought is its best summary
        raise refusal("thinking", f"thinking.display is {shorten(display)}; it must be one of omitted, summarized")
    is_shown = display != "omitted"
    if kind == "enabled":
        return {**switched(on=True), "thinking_budget": _budget(thinking, max_tokens)}, is_shown
    return (switched(on=False) if kind == "disabled" else {}), is_shown


def _budget(thinking: dict[str, Any], max_tokens: int | None) -> int:
    budget = whole(member(thinking, "budget_tokens", "thinking"), "thinking.budget_tokens")
    if budget < 1:
        raise refusal("thinking", f"thinking.budget_tokens is {budget}; it must be at least 1")
    if max_tokens is not None and budget >= max_tokens:
        raise refusal(
            "thinking",
            f"thinking.budget_tokens is {budget}, and max_tokens is {max_tokens}: no room for an answer would be left; "
            "send a lower budget",
        )
    return budget


def parse_output_config(value: Any) -> tuple[dict[str, Any], JsonSchema | None]:
    """Variables of the template, and the form of the answer. Raises: InvalidRequestError."""
    config = mapping(value, "output_config")
    only(config, ("effort", "format"), "output_config")
    effort = config.get("effort")
    variables = {} if effort is None else of_effort(word(effort, "output_config.effort", _EFFORTS))
    form = config.get("format")
    return variables, None if form is None else parse_format(form, "output_config.format")


def parse_format(value: Any, path: str) -> JsonSchema:
    """Raises: InvalidRequestError."""
    form = mapping(value, path)
    only(form, ("schema", "type"), path)
    word(form.get("type"), f"{path}.type", ("json_schema",))
    return JsonSchema(mapping(member(form, "schema", path), f"{path}.schema"), named=f"{path}.schema")
