"""The shapes of answers, for the API's description alone: what is sent is put together by `cluster.ingress.formats`.

A test holds the two together, answer by answer.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

Count = Annotated[int, Field(ge=0)]
FinishReason = Literal["stop", "length", "tool_calls"]
Logprob = Annotated[float, Field(le=0)]


class ErrorDetail(BaseModel):
    message: str = Field(description="Names the field, its value and the fix.")
    type: str
    param: str | None = Field(description="The field of the request that it is about.")
    code: str


class Error(BaseModel):
    error: ErrorDetail


class PromptTokensDetails(BaseModel):
    cached_tokens: Count


class Usage(BaseModel):
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[Logprob | None]
    top_logprobs: list[dict[str, Logprob] | None]
    text_offset: list[Count]


class CompletionChoice(BaseModel):
    index: Count
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: Annotated[list[CompletionChoice], Field(min_length=1)]
    usage: Usage


class CompletionChunkChoice(BaseModel):
    index: Count
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None = None


class CompletionChunk(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: Logprob
    bytes: list[Annotated[int, Field(ge=0, le=255)]] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob] | None
    refusal: None


class CalledFunction(BaseModel):
    name: str
    arguments: str = Field(description="JSON, as text.")


class ToolCall(BaseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatAnswer(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    index: Count
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: Annotated[list[ChatChoice], Field(min_length=1)]
    usage: Usage


class ChatChunkChoice(BaseModel):
    index: Count
    delta: dict[str, Any] = Field(description="What is new of the message.")
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None = None


class ChatCompletionChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ModelPermission(BaseModel):
    id: str
    object: Literal["model_permission"]
    created: int
    allow_create_engine: bool
    allow_sampling: bool
    allow_logprobs: bool
    allow_search_indices: bool
    allow_view: bool
    allow_fine_tuning: bool
    organization: str
    group: str | None
    is_blocking: bool


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    permission: list[ModelPermission]
    max_model_len: int | None = Field(description="Tokens of prompt and answer together; null before a worker says.")
    context_length: int | None = Field(description="The same, as other servers call it.")
    context_window: int | None = Field(description="The same again.")
    vocab_size: Count
    generation_defaults: dict[str, float]
    chat_templates: list[str]


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Tokens(BaseModel):
    tokens: list[Count]
    count: Count
    max_model_len: Count
    token_strs: list[str] | None = Field(description="As the vocabulary writes them, where return_token_strs is true.")


class Text(BaseModel):
    prompt: str


class ModelHealth(BaseModel):
    served_name: str
    weight: float
    status: Literal["ok", "unhealthy"]
    reason: str | None = None


class Health(BaseModel):
    status: Literal["ok", "unhealthy"]
    reason: str | None = None
    models: dict[str, ModelHealth] | None = Field(None, description="Of a server of several: by entry.")


class Version(BaseModel):
    version: str
