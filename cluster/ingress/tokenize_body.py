"""The body of /tokenize: a prompt, or messages with all that shapes their prompt in a chat."""

from typing import Any

from pydantic import Field

from baton.errors import InvalidRequestError
from cluster.ingress.chat.body import ChatBody
from cluster.ingress.chat.request import ChatRequest
from cluster.ingress.openai import Body

_OF_MESSAGES = ("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "tools")


class TokenizeBody(Body):
    model: str | None = None
    prompt: str | None = None
    messages: list[Any] | None = None
    chat_template: str = ""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    tools: list[Any] = Field(default_factory=list)
    add_special_tokens: bool | None = None  # true for a prompt, false for messages: templates write their own
    return_token_strs: bool = False  # as well, how the vocabulary writes each token

    def chat(self) -> ChatRequest | None:
        """None: it has a prompt. Raises: InvalidRequestError: both, neither, or a field that is for messages alone."""
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequestError("prompt or messages: send exactly one of the two", field="prompt")
        if self.messages is None:
            self._check_prompt()
            return None
        shared = {name: getattr(self, name) for name in _OF_MESSAGES}
        body = ChatBody(messages=self.messages, add_special_tokens=bool(self.add_special_tokens), **shared)
        return body.request()

    def _check_prompt(self) -> None:
        for name in _OF_MESSAGES:
            if name in self.model_fields_set:
                raise InvalidRequestError(f"{name} is for messages, not for a prompt; leave it out", field=name)
