"""Bodies of the OpenAI-compatible requests: what is accepted and what it means.

Types are strict: "5" is not a number and 1 is not true. `max_tokens` left out means as much as fits, also for
/v1/completions, where OpenAI's own default is 16.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from baton.errors import InvalidRequestError
from cluster.ingress.echo import Echo
from cluster.ingress.fields import check_fields, shorten
from cluster.ingress.prompt_shapes import PromptView
from cluster.ingress.sampling import SamplingOptions
from cluster.ingress.session_of import session_of
from cluster.ingress.structured.output import StructuredOutput
from cluster.ingress.structured.parsing import FIELDS as STRUCTURED_FIELDS
from cluster.ingress.structured.parsing import parse_structured
from cluster.ingress.tokenizer import Tokenizer
from workers.model.sampling_params import ROWS

MAX_PROMPTS = 1024
MAX_ID_DIGITS = 10  # int() refuses thousands of them

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
}


_EXPECTED_OF = {"stop": "a string or a list of strings"}


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())

    @classmethod
    def field_names(cls) -> set[str]:
        return set(cls.model_fields)


B = TypeVar("B", bound=Body)


class StreamOptions(Body):
    include_usage: bool = False
    continuous_usage_stats: bool = False  # vLLM's: with include_usage, every event tells the usage so far
    include_obfuscation: bool = False  # padding against traffic analysis: a client may turn it off, which it is


# The sampling fields that both bodies share. Of `logprobs` each has its own, where OpenAI's differ.
_JSON_KINDS: dict[Any, Any] = {
    list[str]: Annotated[list[str], BeforeValidator(_one_or_many)],
    dict[int, float]: dict[str, float],  # JSON's keys are texts
}
_SAMPLING_FIELDS: dict[str, Any] = {
    name: (_JSON_KINDS.get(row.kind, row.kind), None) for name, row in ROWS.items() if name != "logprobs"
}
_Sampling = create_model("_Sampling", __base__=Body, **_SAMPLING_FIELDS)


class SamplingBody(Body):
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    skip_special_tokens: bool = True  # in the answer's text
    said: dict[str, Any] = Field(default_factory=dict)  # of the sampling fields, those that were sent
    structured: Any = None  # the form that the answer must have: see `form`
    session: str = ""  # see `session_of`

    @classmethod
    def field_names(cls) -> set[str]:
        return (
            (super().field_names() - {"said", "structured", "session"}) | set(_SAMPLING_FIELDS) | set(STRUCTURED_FIELDS)
        )

    @property
    def form(self) -> StructuredOutput | None:
        form: StructuredOutput | None = self.structured
        return form

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.include_usage and self.stream_options is not None and self.stream_options.continuous_usage_stats


class CompletionBody(SamplingBody):
    prompt: Any
    logprobs: int | None = None
    echo: bool = False
    truncate_prompt_tokens: int | None = None  # see `truncation`

    def options(self) -> SamplingOptions:
        """With `echo`, `logprobs` is of the prompt's tokens too."""
        said = given(logprobs=self.logprobs) | self.said
        if self.echo and self.logprobs is not None:
            said["prompt_logprobs"] = max(self.logprobs, said.get("prompt_logprobs", 0))
        names = {} if "prompt_logprobs" in self.said else {"prompt_logprobs": "logprobs"}
        return SamplingOptions(said=said, names=names, echo=self.echo)

    def view(
        self, sent: "Sequence[Prompt]", prompts: Sequence[Sequence[int]], tokenizer: Tokenizer
    ) -> PromptView | None:
        """What to show of the prompts, which were read as these token ids; None: nothing."""
        wanted = self.said.get("prompt_logprobs")
        if not self.echo and wanted is None:
            return None
        pairs = zip(prompts, sent, strict=True)
        return PromptView(
            echoes=[Echo(tokenizer, ids, prompt.text) for ids, prompt in pairs] if self.echo else (),
            num_choices=self.said.get("n", 1),
            logprobs=self.logprobs if self.echo else None,
            prompt_logprobs=wanted,
        )


class DetokenizeBody(Body):
    model: str | None = None
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its text, or its token ids."""

    text: str | None = None
    token_ids: tuple[int, ...] = ()


def parse_body(body: Mapping[str, Any], kind: type[B]) -> B:
    """Raises: InvalidRequestError: the first field that is unknown, unsupported, missing or of a wrong type."""
    known = check_fields(body, kind.field_names())
    if "stream_options" in known and not known.get("stream"):
        raise InvalidRequestError("stream_options needs stream to be true; set it or leave both out", "stream_options")
    asked = {name: known.pop(name) for name in STRUCTURED_FIELDS if name in known}
    if asked:
        known["structured"] = parse_structured(asked)
    try:
        if issubclass(kind, SamplingBody):
            known["session"] = session_of(body)
            known["said"] = _said({name: known.pop(name) for name in _SAMPLING_FIELDS if name in known})
        return kind.model_validate(known)
    except ValidationError as error:
        raise _invalid(error) from error


def read_sampling(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling fields in the types of `SamplingOptions`. Raises: InvalidRequestError: one is of a wrong type."""
    try:
        return _said(sent)
    except ValidationError as error:
        raise _invalid(error) from error


def _said(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Checked, in the types of `SamplingOptions`. Raises: ValidationError, InvalidRequestError."""
    said: dict[str, Any] = _Sampling.model_validate(sent).model_dump(exclude_unset=True)
    if "logit_bias" in said:
        said["logit_bias"] = {_bias_token(key): bias for key, bias in said["logit_bias"].items()}
    return said


def given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def parse_prompts(value: Any) -> list[Prompt]:
    """A string, token ids, or a list of either, as OpenAI's /v1/completions takes them."""
    if isinstance(value, str):
        return [_text_prompt(value, "prompt")]
    if not isinstance(value, list):
        raise InvalidRequestError(
            f"prompt is {shorten(value)}; send a string, a list of token ids, or a list of either", field="prompt"
        )
    if not value:
        raise InvalidRequestError("prompt is an empty list; send at least one prompt", field="prompt")
    if all(type(item) is int for item in value):
        return [Prompt(token_ids=tuple(value))]
    if len(value) > MAX_PROMPTS:
        raise InvalidRequestError(f"prompt has {len(value)} prompts; send at most {MAX_PROMPTS}", field="prompt")
    return [_prompt_item(item, index) for index, item in enumerate(value)]


def _prompt_item(item: Any, index: int) -> Prompt:
    if isinstance(item, str):
        return _text_prompt(item, f"prompt[{index}]")
    if isinstance(item, list) and item and all(type(token_id) is int for token_id in item):
        return Prompt(token_ids=tuple(item))
    raise InvalidRequestError(
        f"prompt[{index}] is {shorten(item)}; send a string or a list of at least one token id", field="prompt"
    )


def _text_prompt(text: str, name: str) -> Prompt:
    if not text:
        raise InvalidRequestError(f"{name} is empty; send at least one character", field="prompt")
    return Prompt(text=text)


def _bias_token(key: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) <= MAX_ID_DIGITS):
        raise InvalidRequestError(f"logit_bias has the key {shorten(key)}; keys are token ids", field="logit_bias")
    return int(key)


def _invalid(error: ValidationError) -> InvalidRequestError:
    first = error.errors(include_url=False)[0]
    top = str(first["loc"][0])
    path = top + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"][1:])
    if first["type"] == "missing":
        return InvalidRequestError(f"{path} is missing; send it", field=top)
    if first["type"] == "extra_forbidden":
        return InvalidRequestError(f"{path} is not a field of {top}; leave it out", field=top)
    expected = _EXPECTED_OF.get(path) or _EXPECTED.get(first["type"], first["msg"])
    if first["type"] == "literal_error":
        expected = first["ctx"]["expected"]
    return InvalidRequestError(f"{path} is {shorten(first['input'])}; it must be {expected}", field=top)
