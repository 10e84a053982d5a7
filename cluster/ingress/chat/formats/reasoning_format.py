"""How a family of models writes its thinking."""

from dataclasses import dataclass
from typing import Protocol

from cluster.ingress.chat.formats.markers import LINE_ENDS
from cluster.ingress.chat.formats.thinking import ThinkingParser


class ReasoningFormat(Protocol):
    """
    Attributes:
        name: What vLLM's `--reasoning-parser` calls it.
        aliases: Further names.
        shown: Texts that may be special tokens in the vocabulary, and that the parser must see.
        begin, end: The marks around the thinking, the usual one of each first. Behind the end, or at once where there
            is no thinking, a call's tag may begin, or content.
        content_head: What stands before content, where a grammar writes it.
    """

    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def shown(self) -> tuple[str, ...]: ...
    @property
    def begin(self) -> tuple[str, ...]: ...
    @property
    def end(self) -> tuple[str, ...]: ...
    @property
    def content_head(self) -> str: ...

    def is_opened(self, prompt: str) -> bool:
        """An answer to this prompt, which may be its end alone, begins within the thinking."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedThinking:
    """Between two marks at the answer's beginning.

    Attributes:
        always: The models think without writing `begin`, also where the prompt has not written it.
        before: Texts that end the thinking too, and belong to what follows.
        space: What beside the marks belongs neither to thinking nor to content.
    """

    name: str
    begin: tuple[str, ...] = ("<think>",)
    end: tuple[str, ...] = ("</think>",)
    aliases: tuple[str, ...] = ()
    always: bool = False
    before: tuple[str, ...] = ()
    space: str = LINE_ENDS
    content_head: str = ""

    @property
    def shown(self) -> tuple[str, ...]:
        return self.begin + self.end

    def is_opened(self, prompt: str) -> bool:
        tail = prompt.rstrip()
        if tail.endswith(self.begin):
            return True
        return self.always and not tail.endswith(self.end)

    def parser(self, *, is_opened: bool) -> ThinkingParser:
        """Of one choice's text: gives Reasoning, then Content."""
        ends = self.end + self.before
        return ThinkingParser(self.begin, ends, len(self.end), is_opened=is_opened, space=self.space)
