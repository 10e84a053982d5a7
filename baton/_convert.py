"""Between the SDK's plain values and `baton.v1` messages.

Refuses here only what no message can hold (a negative count, a wrong type); ranges are the server's to check.
"""

import operator
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, Unpack, get_type_hints

from google.protobuf.descriptor import FieldDescriptor

from baton._form import KEYWORDS, structured_output
from baton.errors import InternalError, InvalidRequestError
from baton.types import (
    Choice,
    Completion,
    Delta,
    FinishReason,
    Model,
    Options,
    Prompt,
    Schema,
    TokenLogprob,
    TokenLogprobs,
    Usage,
)
from baton.v1 import inference_pb2 as pb

_KINDS = {
    FieldDescriptor.TYPE_BOOL: "True or False",
    FieldDescriptor.TYPE_FLOAT: "a number",
    FieldDescriptor.TYPE_INT32: "a whole number from -2**31 to 2**31 - 1",
    FieldDescriptor.TYPE_MESSAGE: "a dict of token ids to numbers",
    FieldDescriptor.TYPE_STRING: "Unicode text",
    FieldDescriptor.TYPE_UINT32: "a whole number from 0 to 2**32 - 1",
    FieldDescriptor.TYPE_UINT64: "a whole number from 0 to 2**64 - 1",
}
_FINISH: dict[int, FinishReason] = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_ABORT: "abort",
    pb.FINISH_REASON_ERROR: "error",
}


_PROMPT = "a text, a list of token ids >= 0, or a list of messages"


def sampling_params(schema: Schema | None = None, **options: Unpack[Options]) -> pb.SamplingParams:
    """The message of `baton.types.Options`. Raises: TypeError: an unknown keyword, as Python itself does."""
    form = structured_output(schema, {name: value for name, value in options.items() if name in KEYWORDS})
    params = pb.SamplingParams(structured_output=form)
    known = _known()
    for name, value in options.items():
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}; known are schema, {', '.join(known)}")
        if name in KEYWORDS:
            continue
        if value is not None:
            _fill(params, name, [value] if name == "stop" and isinstance(value, str) else value)
    return params


@cache
def _known() -> Collection[str]:
    return get_type_hints(Options)


def check_one_instance(schema: Schema | None, options: Mapping[str, Any]) -> None:
    """Raises: InvalidRequestError: several choices, where `generate` gives back one instance."""
    if isinstance(schema, type) and options.get("n") not in (None, 1):
        raise InvalidRequestError(
            f"n is {_brief(options['n'])}, and with a model as schema generate gives back one instance: leave n out, "
            f"or use stream(...).completion() and each choice's parse({schema.__name__})",
            field="n",
        )


def _fill(message: Any, name: str, value: Any) -> None:
    try:
        message.MergeFrom(type(message)(**{name: value}))
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        expected = _expected(message.DESCRIPTOR.fields_by_name[name])
        raise InvalidRequestError(f"{name} is {_brief(value)}; it must be {expected}", field=name) from error


def _expected(field: FieldDescriptor) -> str:
    kind = _KINDS[field.type]
    if field.message_type is not None or not field.is_repeated:
        return kind
    return f"a list, each of it {kind}"


def generate_request(
    prompt: Prompt, *, model: str, sampling: pb.SamplingParams, timeout_s: float, chat_template: str = ""
) -> pb.GenerateRequest:
    """Raises InvalidRequestError for a prompt that is empty, of mixed kinds, or none at all."""
    request = pb.GenerateRequest(model=model, sampling=sampling, timeout_s=timeout_s)
    if not _is_list(prompt) and not isinstance(prompt, str):
        raise InvalidRequestError(f"prompt is {_brief(prompt)}; give {_PROMPT}", field="prompt")
    if len(prompt) == 0:
        raise InvalidRequestError("the prompt is empty; give at least one token", field="prompt")
    if is_chat(prompt):
        request.chat.CopyFrom(chat(prompt, chat_template))
        return request
    _check_no_template(chat_template)
    if isinstance(prompt, str):
        _set_text(request, "prompt", prompt)
    else:
        request.prompt_token_ids.CopyFrom(_token_ids(prompt))
    return request


def tokenize_request(text: Prompt, *, model: str, chat_template: str = "") -> pb.TokenizeRequest:
    """Raises InvalidRequestError for anything but a text or messages."""
    if isinstance(text, str):
        _check_no_template(chat_template)
        request = pb.TokenizeRequest(model=model)
        _set_text(request, "text", text)
        return request
    if _is_list(text) and is_chat(text):
        return pb.TokenizeRequest(model=model, chat=chat(text, chat_template))
    raise InvalidRequestError(f"tokenize takes a text or a list of messages, not {_brief(text)}", field="text")


def _check_no_template(chat_template: str) -> None:
    if chat_template:
        raise InvalidRequestError(
            f"chat_template is {_brief(chat_template)}, which is for a list of messages alone; leave it out",
            field="chat_template",
        )


def detokenize_request(token_ids: Sequence[int], *, model: str) -> pb.DetokenizeRequest:
    if not _is_list(token_ids):
        raise InvalidRequestError(f"token_ids is {_brief(token_ids)}; give a list of token ids >= 0", field="token_ids")
    return pb.DetokenizeRequest(model=model, token_ids=_token_ids(token_ids, "token_ids").ids)


def _is_list(value: object) -> bool:
    """Arrays too; bytes are numbers to Python, but nobody's token ids."""
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, str | bytes | Mapping)


def _set_text(request: Any, name: str, text: str) -> None:
    try:
        setattr(request, name, text)
    except (UnicodeEncodeError, ValueError) as error:
        raise InvalidRequestError(
            f"{name} is not Unicode text ({error}); give it without lone surrogates", field=name
        ) from error


def is_chat(prompt: Sequence[Any]) -> bool:
    return not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], Mapping)


def chat(messages: Sequence[Any], chat_template: str = "") -> pb.Chat:
    converted = []
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise InvalidRequestError(
                f"messages[{position}] is {_brief(message)}; give a dict of exactly 'role' and 'content'",
                field="messages",
            )
        try:
            converted.append(pb.ChatMessage(role=message["role"], content=message["content"]))
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(
                f"messages[{position}] is {_brief(message)}; 'role' and 'content' are Unicode texts", field="messages"
            ) from error
    request = pb.Chat(messages=converted)
    if chat_template:
        _fill(request, "chat_template", chat_template)
    return request


def _token_ids(token_ids: Sequence[Any], name: str = "prompt") -> pb.TokenIds:
    """Raises InvalidRequestError that names the first wrong id by its place."""
    try:
        return pb.TokenIds(ids=token_ids)
    except (TypeError, ValueError, OverflowError) as error:
        wrong = next((place for place, token_id in enumerate(token_ids) if not _is_token_id(token_id)), 0)
        what = f"a prompt is {_PROMPT}" if name == "prompt" else "a token id is a whole number >= 0"
        raise InvalidRequestError(f"{name}[{wrong}] is {_brief(token_ids[wrong])}; {what}", field=name) from error


def _is_token_id(value: Any) -> bool:
    try:
        return 0 <= operator.index(value) < 1 << 32
    except TypeError:
        return False


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def deltas(response: pb.GenerateResponse) -> list[Delta]:
    return [
        Delta(
            choice=delta.choice,
            text=delta.text,
            token_ids=tuple(delta.token_ids),
            logprobs=tuple(_logprobs(entry) for entry in delta.logprobs),
            finish_reason=_FINISH.get(delta.finish_reason),
            stop_reason=delta.stop_reason or None,
        )
        for delta in response.deltas
    ]


def _logprobs(entry: pb.TokenLogprobs) -> TokenLogprobs:
    return TokenLogprobs(sampled=_logprob(entry.sampled), top=tuple(_logprob(token) for token in entry.top))


def _logprob(token: pb.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(token_id=token.token_id, logprob=token.logprob, text=token.text, rank=token.rank or None)


def usage(message: pb.Usage) -> Usage:
    return Usage(
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
        cached_tokens=message.cached_tokens,
    )


def models(response: pb.ListModelsResponse) -> list[Model]:
    return [
        Model(
            id=model.id,
            max_model_len=model.max_model_len,
            vocab_size=model.vocab_size,
            generation_defaults={
                field.name: _seven_digits(value) for field, value in model.generation_defaults.ListFields()
            },
            chat_templates=tuple(model.chat_templates),
        )
        for model in response.models
    ]


def _seven_digits(value: float) -> float:
    """What was meant by a number that crossed the wire in 32 bits."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


class Answer:
    """Adds up the messages of one stream."""

    def __init__(self) -> None:
        self.request_id = ""
        self.usage: Usage | None = None
        self.prompt_logprobs: list[TokenLogprobs | None] = []
        self._deltas: dict[int, list[Delta]] = {}

    @property
    def has_begun(self) -> bool:
        """Whether a delta has come: from then on the request must not be sent again."""
        return bool(self._deltas)

    def add(self, response: pb.GenerateResponse) -> list[Delta]:
        """The new deltas, in the order sent."""
        self.request_id = response.request_id or self.request_id
        if response.HasField("usage"):
            self.usage = usage(response.usage)
        for entry in response.prompt_logprobs:
            self.prompt_logprobs.append(_logprobs(entry) if entry.sampled.rank else None)
        new = deltas(response)
        for delta in new:
            self._deltas.setdefault(delta.choice, []).append(delta)
        return new

    def check_whole(self) -> None:
        """Raises InternalError when the stream ended before each choice had its final event."""
        unfinished = [choice for choice, parts in self._deltas.items() if parts[-1].finish_reason is None]
        if unfinished or not self._deltas or self.usage is None:
            missing = f"choices {unfinished} unfinished" if unfinished else "no final event"
            raise InternalError(f"request {self.request_id or '?'}: the server ended the stream early: {missing}")

    def completion(self) -> Completion:
        choices = tuple(_joined(self._deltas[choice]) for choice in sorted(self._deltas))
        prompt = tuple(self.prompt_logprobs) or None
        return Completion(request_id=self.request_id, choices=choices, usage=self.usage, prompt_logprobs=prompt)


def _joined(parts: list[Delta]) -> Choice:
    logprobs = tuple(entry for part in parts for entry in part.logprobs)
    return Choice(
        text="".join(part.text for part in parts),
        token_ids=tuple(token_id for part in parts for token_id in part.token_ids),
        logprobs=logprobs or None,
        finish_reason=parts[-1].finish_reason,
        stop_reason=parts[-1].stop_reason,
    )
