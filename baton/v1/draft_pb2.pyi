from baton.v1 import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ToDrafter(_message.Message):
    __slots__ = ("hello", "follow", "news")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    NEWS_FIELD_NUMBER: _ClassVar[int]
    hello: DraftHello
    follow: Follow
    news: News
    def __init__(self, hello: _Optional[_Union[DraftHello, _Mapping]] = ..., follow: _Optional[_Union[Follow, _Mapping]] = ..., news: _Optional[_Union[News, _Mapping]] = ...) -> None: ...

class FromDrafter(_message.Message):
    __slots__ = ("hello", "guesses")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    GUESSES_FIELD_NUMBER: _ClassVar[int]
    hello: DraftHelloReply
    guesses: _containers.RepeatedCompositeFieldContainer[Guess]
    def __init__(self, hello: _Optional[_Union[DraftHelloReply, _Mapping]] = ..., guesses: _Optional[_Iterable[_Union[Guess, _Mapping]]] = ...) -> None: ...

class DraftHello(_message.Message):
    __slots__ = ("worker_id", "incarnation", "vocab_size", "num_tokens", "no_overlap")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NO_OVERLAP_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    incarnation: str
    vocab_size: int
    num_tokens: int
    no_overlap: bool
    def __init__(self, worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., vocab_size: _Optional[int] = ..., num_tokens: _Optional[int] = ..., no_overlap: _Optional[bool] = ...) -> None: ...

class DraftHelloReply(_message.Message):
    __slots__ = ("worker_id", "incarnation", "vocab_size", "refusal")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    incarnation: str
    vocab_size: int
    refusal: str
    def __init__(self, worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., vocab_size: _Optional[int] = ..., refusal: _Optional[str] = ...) -> None: ...

class Follow(_message.Message):
    __slots__ = ("number", "choice", "prompt_token_ids", "output_token_ids", "sampling")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    number: int
    choice: int
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    output_token_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: _inference_pb2.SamplingParams
    def __init__(self, number: _Optional[int] = ..., choice: _Optional[int] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., output_token_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[_inference_pb2.SamplingParams, _Mapping]] = ...) -> None: ...

class News(_message.Message):
    __slots__ = ("written", "forgotten")
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    written: _containers.RepeatedCompositeFieldContainer[Written]
    forgotten: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, written: _Optional[_Iterable[_Union[Written, _Mapping]]] = ..., forgotten: _Optional[_Iterable[int]] = ...) -> None: ...

class Written(_message.Message):
    __slots__ = ("number", "start", "token_ids")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    number: int
    start: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, number: _Optional[int] = ..., start: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Guess(_message.Message):
    __slots__ = ("number", "base", "token_ids", "parents")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    number: int
    base: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    parents: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, number: _Optional[int] = ..., base: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., parents: _Optional[_Iterable[int]] = ...) -> None: ...
