"""What the SDK takes and gives: plain values, no protobuf.

Everything returned is frozen and owned by the caller. Token ids are integers in [0, vocabulary size).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, TypedDict, TypeVar

from baton.errors import IncompleteAnswerError

FinishReason = Literal["stop", "length", "abort", "error"]
HealthStatus = Literal["serving", "not_serving", "unknown"]


class Message(TypedDict):
    """One turn of a chat; `role` is system, user or assistant."""

    role: str
    content: str


Prompt = str | Sequence[int] | Sequence[Message]
"""A text, the token ids of one, or the messages of a chat (the server applies its chat template)."""


class SchemaModel(Protocol):
    """A class whose fields are a JSON schema, and whose instances JSON is read as: pydantic's models are."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]: ...

    @classmethod
    def model_validate_json(cls, json_data: str, /) -> Self: ...


M = TypeVar("M", bound=SchemaModel)
Schema = Mapping[str, Any] | str | bool | type[SchemaModel]
"""A JSON schema: plain values, its text, or a pydantic model."""


class Sampling(TypedDict, total=False):
    """Keyword arguments of `generate` and `stream`; None or absent: the default.

    `Model.generation_defaults` says what that is for temperature, top_p, top_k, min_p and repetition_penalty; here
    stands what it is where the model has no word. The server checks the ranges and names the field it refuses.
    """

    max_tokens: int | None
    """Output tokens at most, >= 1, or 0 with `prompt_logprobs`. Default: as many as fit in the context."""
    temperature: float | None
    """>= 0, default 1; 0 is greedy."""
    top_p: float | None
    """(0, 1], default 1: the smallest set of tokens with this much probability."""
    top_k: int | None
    """The k most likely tokens only; 0 or -1, the default: all."""
    min_p: float | None
    """[0, 1], default 0: tokens of at least this share of the most likely one's probability."""
    n: int | None
    """Choices for one prompt, >= 1, default 1."""
    stop: str | Sequence[str] | None
    """Text that ends a choice; not part of its text unless `include_stop_str_in_output`."""
    stop_token_ids: Sequence[int] | None
    """Tokens that end a choice, besides the model's end of sequence."""
    min_tokens: int | None
    """Output tokens before a choice may end, >= 0, default 0."""
    seed: int | None
    """[0, 2**64): equal seeds give equal outputs. Default: the server draws one."""
    logit_bias: Mapping[int, float] | None
    """Added to the logits of these token ids, [-100, 100] each."""
    logprobs: int | None
    """[0, 20]: log probability of each sampled token, and of the k most likely. Default: none."""
    prompt_logprobs: int | None
    """[0, 20]: the same of each token of the prompt but the first, from the model's own logits. Default: none."""
    presence_penalty: float | None
    """[-2, 2], default 0: taken from the logits of tokens that the output holds."""
    frequency_penalty: float | None
    """[-2, 2], default 0: taken once for each time that the output holds the token."""
    repetition_penalty: float | None
    """> 0, default 1: divides the logits of tokens that prompt or output hold."""
    ignore_eos: bool
    """Write on after the model's end of sequence, up to `max_tokens`."""
    speculation: str | None
    """"auto", the default: as the server is set up; "none": without drafts. The text is the same."""
    include_stop_str_in_output: bool
    """Keep the stop string in the text."""


class Options(Sampling, total=False):
    """Keyword arguments of `generate` and `stream`: sampling, and the form that an answer must have.

    Of the forms, `schema` among them, at most one. A choice that ends with "stop" has it from beginning to end, unless
    a stop text or token cut it off.
    """

    json_object: bool
    """A JSON object, any."""
    regex: str | None
    """Text that the whole expression matches, in the syntax of Rust's `regex`."""
    choice: Sequence[str] | None
    """One of these texts."""
    grammar: str | None
    """Text of a grammar, in llguidance's variant of Lark, or in GBNF."""
    structural_tag: Mapping[str, Any] | str | None
    """Free text with tags in it that follow schemas; vLLM's shape."""
    no_whitespace: bool
    """With `schema` or `json_object`: no blanks between the tokens of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """`logprob` is natural, after penalties and bias, before temperature and truncation; in prompts before all these.

    `rank` is the token's place among all, 1 for the most likely one; None in answers, where it is not known.
    """

    token_id: int
    logprob: float
    text: str
    rank: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Of one output token, or one of the prompt (`sampled` too); `top` is most likely first."""

    sampled: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of one request; `cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one choice gained. `text` may be empty while a character is still incomplete.

    `logprobs` has one entry per token when asked for. `stop_reason` is the stop string, or the stop token id in
    decimal, that ended the choice.
    """

    choice: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]
    finish_reason: FinishReason | None
    stop_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One answer, whole. `logprobs` is None when not asked for; `finish_reason` is None if its stream was closed."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None
    finish_reason: FinishReason | None
    stop_reason: str | None

    def parse(self, kind: type[M]) -> M:
        """Its text as an instance of a pydantic model, or of another class with `model_validate_json`.

        Raises:
            IncompleteAnswerError: It was cut off: by `max_tokens`, a stop text, or its stream's end.
            pydantic.ValidationError: The model asks for more than its schema says.
        """
        if self.finish_reason != "stop" or self.stop_reason is not None:
            raise IncompleteAnswerError(
                f"the answer was cut off (finish_reason {self.finish_reason}, stop_reason {self.stop_reason}) after "
                f"{self.text[-40:]!r} and is no whole {kind.__name__}; raise max_tokens, or leave stop out",
                self.text,
            )
        return kind.model_validate_json(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The answer to one request; `choices` are in order, `n` of them. `usage` is None if its stream was closed.

    `prompt_logprobs` has an entry for each token of the prompt, None for the first; it is None when not asked for.
    """

    request_id: str
    choices: tuple[Choice, ...]
    usage: Usage | None
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text if self.choices else ""

    def parse(self, kind: type[M]) -> M:
        """The first choice as an instance of a model: see `Choice.parse`."""
        if not self.choices:
            raise IncompleteAnswerError("the answer has no choice: its stream was closed before one came", "")
        return self.choices[0].parse(kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """`max_model_len` bounds prompt plus output, in tokens; token ids are below `vocab_size`.

    `generation_defaults` are the values of sampling keywords that a request leaves out; `chat_templates` are names for
    the keyword `chat_template`.
    """

    id: str
    max_model_len: int
    vocab_size: int
    generation_defaults: Mapping[str, float] = field(default_factory=dict)
    chat_templates: tuple[str, ...] = ()
