"""In which formats a model writes calls and thinking, by template; and how one chat's answer is read and forced."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from baton.errors import InvalidRequestError
from cluster.ingress.chat.choice_reader import ChoiceReader, call_id, short_call_id
from cluster.ingress.chat.events import AnswerParser
from cluster.ingress.chat.forcing import forced_form
from cluster.ingress.chat.formats.answer_parser import answer_parser
from cluster.ingress.chat.formats.find_reasoning import find_reasoning_format
from cluster.ingress.chat.formats.find_tools import find_tool_format
from cluster.ingress.chat.formats.json_formats import HERMES
from cluster.ingress.chat.formats.reasoning_format import ReasoningFormat
from cluster.ingress.chat.formats.tool_format import ToolFormat
from cluster.ingress.chat.prompts import ChatPrompt
from cluster.ingress.chat.request import ChatRequest
from cluster.ingress.chat_templates import ChatTemplate
from cluster.ingress.structured.output import StructuredOutput, Tagged
from cluster.ingress.tokenizer import Tokenizer

_SHORT_IDS = "length 9"  # what templates say that refuse other ids of calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is made of one chat's answer.

    Attributes:
        new_reader: Of each choice; None: its text is content as it stands.
        shown_ids, hidden_ids: Special tokens that are text of the answer, and all others.
        form: What the answer must be, behind the thinking; None: the model is free.
        reasoning_ends: The text with which thinking ends that comes before the form; None: none comes.
        reasoning_begins: The text with which thinking begins, if any comes; None: the answer begins within it.
    """

    new_reader: Callable[[], ChoiceReader] | None = None
    shown_ids: frozenset[int] = frozenset()
    hidden_ids: frozenset[int] | None = None
    form: StructuredOutput | None = None
    reasoning_ends: str | None = None
    reasoning_begins: str | None = None


@dataclass(frozen=True, slots=True)
class _Formats:
    """Of one template. `shown_ids`: special tokens that are part of them, without and with tools."""

    tools: ToolFormat | None
    reasoning: ReasoningFormat | None
    shown_ids: tuple[frozenset[int], frozenset[int]]


class ModelFormats:
    """Safe to share between requests."""

    def __init__(self, tokenizer: Tokenizer, *, tools: str = "auto", reasoning: str = "auto") -> None:
        """
        Args:
            tools, reasoning: The config's parsers: auto, none, or a format's name.
        Raises: ConfigError: no format has that name.
        """
        self._tokenizer = tokenizer
        self._tools_name = tools
        find_tool_format(tools, "")
        find_reasoning_format(reasoning, "")
        self._of_template: dict[str, _Formats] = {}
        for name in tokenizer.chat_templates:
            template = tokenizer.templates.find(name)
            found = find_tool_format(tools, template.text) if template.knows_tools or tools == "none" else HERMES
            thinking = find_reasoning_format(reasoning, template.text)
            self._of_template[template.text] = _Formats(found, thinking, self._shown_ids(found, thinking))

    def reading(self, request: ChatRequest, prompt: ChatPrompt, *, stream: bool) -> Reading:
        """
        Args:
            stream: Pieces of calls are told as they come, also where a call then breaks.
        Raises: InvalidRequestError: there are tools, and nobody knows how this model calls them.
        """
        formats = self._of_template[prompt.template.text]
        tools = () if request.tool_choice.mode == "none" else request.tools
        tool_format = self._tool_format(formats) if tools else None
        reasoning = formats.reasoning
        if tool_format is None and reasoning is None:
            return Reading(form=request.structured)
        ends, begins = _marks(reasoning, prompt.text)
        is_thinking = ends is not None and begins is None
        form = request.structured
        if tool_format is not None:
            form = forced_form(request, tool_format, content_head=reasoning.content_head if reasoning else "")
        if ends is not None and reasoning is not None and not isinstance(form, Tagged):
            ends += reasoning.content_head
        make = partial(answer_parser, reasoning, tool_format, prompt=prompt.text, tools=tools, held=not stream)
        shown_ids = formats.shown_ids[tool_format is not None]
        return Reading(
            new_reader=partial(_reader, make, request, prompt.template, is_thinking=is_thinking),
            shown_ids=shown_ids,
            hidden_ids=self._tokenizer.special_ids - shown_ids,
            form=form,
            reasoning_ends=ends,
            reasoning_begins=begins,
        )

    def _shown_ids(
        self, tools: ToolFormat | None, reasoning: ReasoningFormat | None
    ) -> tuple[frozenset[int], frozenset[int]]:
        find = self._tokenizer.special_ids_of
        without = find(reasoning.shown if reasoning else ())
        return without, without | find(tools.shown if tools else ())

    def _tool_format(self, formats: _Formats) -> ToolFormat:
        if formats.tools is not None:
            return formats.tools
        if self._tools_name == "none":
            reason = "this server reads no calls of tools (tools.parser: none)"
        else:
            reason = (
                "this server cannot tell from this model's chat template how it writes calls: "
                "whoever runs it sets tools.parser"
            )
        raise InvalidRequestError(f"tools is given, but {reason}; leave tools out", field="tools")


def _marks(reasoning: ReasoningFormat | None, prompt: str) -> tuple[str | None, str | None]:
    """`reasoning_ends` and `reasoning_begins`. Where contents have heads, a prompt that ends as thinking does says
    nothing: so do all messages there."""
    if reasoning is None or (prompt.rstrip().endswith(reasoning.end) and not reasoning.content_head):
        return None, None
    return reasoning.end[0], None if reasoning.is_opened(prompt) else reasoning.begin[0]


def _reader(
    make: Callable[[], AnswerParser | None], request: ChatRequest, template: ChatTemplate, *, is_thinking: bool
) -> ChoiceReader:
    parser = make()
    assert parser is not None
    return ChoiceReader(
        parser,
        new_id=short_call_id if _SHORT_IDS in template.text else call_id,
        max_calls=None if request.tool_choice.parallel else 1,
        shows_reasoning=request.include_reasoning,
        is_thinking=is_thinking,
    )
