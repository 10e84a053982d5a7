from baton.v1 import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_PREFILL: _ClassVar[Role]
    ROLE_DECODE: _ClassVar[Role]
    ROLE_MIXED: _ClassVar[Role]
    ROLE_DRAFT: _ClassVar[Role]
ROLE_UNSPECIFIED: Role
ROLE_PREFILL: Role
ROLE_DECODE: Role
ROLE_MIXED: Role
ROLE_DRAFT: Role

class ToWorker(_message.Message):
    __slots__ = ("hello", "submit", "abort", "reports")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    submit: Submit
    abort: Abort
    reports: ReportWish
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., submit: _Optional[_Union[Submit, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., reports: _Optional[_Union[ReportWish, _Mapping]] = ...) -> None: ...

class FromWorker(_message.Message):
    __slots__ = ("state", "outputs")
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    state: WorkerState
    outputs: StepOutputs
    def __init__(self, state: _Optional[_Union[WorkerState, _Mapping]] = ..., outputs: _Optional[_Union[StepOutputs, _Mapping]] = ...) -> None: ...

class ReportWish(_message.Message):
    __slots__ = ("interval_s", "snapshot")
    INTERVAL_S_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    interval_s: float
    snapshot: bool
    def __init__(self, interval_s: _Optional[float] = ..., snapshot: _Optional[bool] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("ingress_id",)
    INGRESS_ID_FIELD_NUMBER: _ClassVar[int]
    ingress_id: str
    def __init__(self, ingress_id: _Optional[str] = ...) -> None: ...

class DecodeRoute(_message.Message):
    __slots__ = ("worker_id", "incarnation", "address", "rank_addresses")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    RANK_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    incarnation: str
    address: str
    rank_addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., address: _Optional[str] = ..., rank_addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class DraftRoute(_message.Message):
    __slots__ = ("worker_id", "incarnation", "address")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    incarnation: str
    address: str
    def __init__(self, worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("name", "hash")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    name: str
    hash: str
    def __init__(self, name: _Optional[str] = ..., hash: _Optional[str] = ...) -> None: ...

class ChoiceStart(_message.Message):
    __slots__ = ("choice", "output_token_ids")
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    choice: int
    output_token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, choice: _Optional[int] = ..., output_token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("request_id", "attempt", "prompt_token_ids", "choices", "sampling", "timeout_s", "decode", "draft", "adapter", "grammar", "num_prompt_logprobs")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    choices: _containers.RepeatedCompositeFieldContainer[ChoiceStart]
    sampling: _inference_pb2.SamplingParams
    timeout_s: float
    decode: DecodeRoute
    draft: DraftRoute
    adapter: Adapter
    grammar: str
    num_prompt_logprobs: int
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., choices: _Optional[_Iterable[_Union[ChoiceStart, _Mapping]]] = ..., sampling: _Optional[_Union[_inference_pb2.SamplingParams, _Mapping]] = ..., timeout_s: _Optional[float] = ..., decode: _Optional[_Union[DecodeRoute, _Mapping]] = ..., draft: _Optional[_Union[DraftRoute, _Mapping]] = ..., adapter: _Optional[_Union[Adapter, _Mapping]] = ..., grammar: _Optional[str] = ..., num_prompt_logprobs: _Optional[int] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("request_id", "attempt", "choices")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    choices: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., choices: _Optional[_Iterable[int]] = ...) -> None: ...

class TokenOutput(_message.Message):
    __slots__ = ("request_id", "choice", "attempt", "index", "token_ids", "logprobs", "finish_reason", "stop_reason", "error", "num_cached_tokens", "prompt_logprobs", "num_drafted", "trace")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFTED_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    choice: int
    attempt: int
    index: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[_inference_pb2.TokenLogprobs]
    finish_reason: _inference_pb2.FinishReason
    stop_reason: str
    error: WorkerError
    num_cached_tokens: int
    prompt_logprobs: PromptLogprobs
    num_drafted: int
    trace: WorkerTrace
    def __init__(self, request_id: _Optional[str] = ..., choice: _Optional[int] = ..., attempt: _Optional[int] = ..., index: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[_inference_pb2.TokenLogprobs, _Mapping]]] = ..., finish_reason: _Optional[_Union[_inference_pb2.FinishReason, str]] = ..., stop_reason: _Optional[str] = ..., error: _Optional[_Union[WorkerError, _Mapping]] = ..., num_cached_tokens: _Optional[int] = ..., prompt_logprobs: _Optional[_Union[PromptLogprobs, _Mapping]] = ..., num_drafted: _Optional[int] = ..., trace: _Optional[_Union[WorkerTrace, _Mapping]] = ...) -> None: ...

class WorkerTrace(_message.Message):
    __slots__ = ("age_s", "scheduled_s", "chunks", "offered_s", "granted_s", "arrived_s", "num_bytes", "num_preemptions")
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    SCHEDULED_S_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    OFFERED_S_FIELD_NUMBER: _ClassVar[int]
    GRANTED_S_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_S_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    age_s: float
    scheduled_s: float
    chunks: _containers.RepeatedCompositeFieldContainer[PromptChunk]
    offered_s: float
    granted_s: float
    arrived_s: float
    num_bytes: int
    num_preemptions: int
    def __init__(self, age_s: _Optional[float] = ..., scheduled_s: _Optional[float] = ..., chunks: _Optional[_Iterable[_Union[PromptChunk, _Mapping]]] = ..., offered_s: _Optional[float] = ..., granted_s: _Optional[float] = ..., arrived_s: _Optional[float] = ..., num_bytes: _Optional[int] = ..., num_preemptions: _Optional[int] = ...) -> None: ...

class PromptChunk(_message.Message):
    __slots__ = ("start_s", "end_s", "num_tokens", "num_context_tokens", "num_steps")
    START_S_FIELD_NUMBER: _ClassVar[int]
    END_S_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    start_s: float
    end_s: float
    num_tokens: int
    num_context_tokens: int
    num_steps: int
    def __init__(self, start_s: _Optional[float] = ..., end_s: _Optional[float] = ..., num_tokens: _Optional[int] = ..., num_context_tokens: _Optional[int] = ..., num_steps: _Optional[int] = ...) -> None: ...

class PromptLogprobs(_message.Message):
    __slots__ = ("start", "logprobs", "ranks", "num_top", "top_token_ids", "top_logprobs")
    START_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    NUM_TOP_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    start: int
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    ranks: _containers.RepeatedScalarFieldContainer[int]
    num_top: int
    top_token_ids: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, start: _Optional[int] = ..., logprobs: _Optional[_Iterable[float]] = ..., ranks: _Optional[_Iterable[int]] = ..., num_top: _Optional[int] = ..., top_token_ids: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class WorkerError(_message.Message):
    __slots__ = ("code", "message", "retryable")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    retryable: bool
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., retryable: _Optional[bool] = ...) -> None: ...

class StepOutputs(_message.Message):
    __slots__ = ("outputs",)
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    outputs: _containers.RepeatedCompositeFieldContainer[TokenOutput]
    def __init__(self, outputs: _Optional[_Iterable[_Union[TokenOutput, _Mapping]]] = ...) -> None: ...

class GetStateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerState(_message.Message):
    __slots__ = ("worker_id", "incarnation", "role", "draining", "fingerprint", "block_size", "max_model_len", "num_blocks", "num_free_blocks", "num_quarantined_blocks", "num_running", "num_waiting", "num_waiting_tokens", "prefill_tokens_per_s", "since_progress_s", "num_steps", "added_block_hashes", "removed_block_hashes", "report_number", "num_referenced_blocks", "num_preemptions", "step_s", "kv_bytes_sent", "kv_bytes_received", "num_transfers", "num_failed_transfers", "num_prefix_hit_tokens", "num_prompt_tokens", "num_output_tokens", "max_sequences", "rank_addresses", "num_states", "num_free_states", "drafted_by_place", "accepted_by_place", "drafting_s", "verifying_s", "drafts_per_decode", "num_cut_draft_tokens", "num_guess_hits", "num_guess_misses", "num_draft_peers", "num_draft_waits", "draft_wait_s", "drafters", "draft_workers_rest", "adapters", "measures", "metrics_address", "num_cached_blocks", "num_prefix_query_tokens", "num_drafts", "served_name", "attention", "num_decode_steps", "num_decode_step_sequences", "decode_steps_s", "num_prompt_step_tokens", "prompt_steps_s")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_QUARANTINED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_FIELD_NUMBER: _ClassVar[int]
    NUM_WAITING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    SINCE_PROGRESS_S_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    ADDED_BLOCK_HASHES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_BLOCK_HASHES_FIELD_NUMBER: _ClassVar[int]
    REPORT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    NUM_REFERENCED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    KV_BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    NUM_TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    NUM_FAILED_TRANSFERS_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFIX_HIT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    RANK_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    NUM_STATES_FIELD_NUMBER: _ClassVar[int]
    NUM_FREE_STATES_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_BY_PLACE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BY_PLACE_FIELD_NUMBER: _ClassVar[int]
    DRAFTING_S_FIELD_NUMBER: _ClassVar[int]
    VERIFYING_S_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_PER_DECODE_FIELD_NUMBER: _ClassVar[int]
    NUM_CUT_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_GUESS_HITS_FIELD_NUMBER: _ClassVar[int]
    NUM_GUESS_MISSES_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFT_PEERS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFT_WAITS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_WORKERS_REST_FIELD_NUMBER: _ClassVar[int]
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    MEASURES_FIELD_NUMBER: _ClassVar[int]
    METRICS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFIX_QUERY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_DRAFTS_FIELD_NUMBER: _ClassVar[int]
    SERVED_NAME_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    NUM_DECODE_STEPS_FIELD_NUMBER: _ClassVar[int]
    NUM_DECODE_STEP_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    DECODE_STEPS_S_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_STEP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_STEPS_S_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    incarnation: str
    role: Role
    draining: bool
    fingerprint: str
    block_size: int
    max_model_len: int
    num_blocks: int
    num_free_blocks: int
    num_quarantined_blocks: int
    num_running: int
    num_waiting: int
    num_waiting_tokens: int
    prefill_tokens_per_s: float
    since_progress_s: float
    num_steps: int
    added_block_hashes: _containers.RepeatedScalarFieldContainer[int]
    removed_block_hashes: _containers.RepeatedScalarFieldContainer[int]
    report_number: int
    num_referenced_blocks: int
    num_preemptions: int
    step_s: float
    kv_bytes_sent: int
    kv_bytes_received: int
    num_transfers: int
    num_failed_transfers: int
    num_prefix_hit_tokens: int
    num_prompt_tokens: int
    num_output_tokens: int
    max_sequences: int
    rank_addresses: _containers.RepeatedScalarFieldContainer[str]
    num_states: int
    num_free_states: int
    drafted_by_place: _containers.RepeatedScalarFieldContainer[int]
    accepted_by_place: _containers.RepeatedScalarFieldContainer[int]
    drafting_s: float
    verifying_s: float
    drafts_per_decode: float
    num_cut_draft_tokens: int
    num_guess_hits: int
    num_guess_misses: int
    num_draft_peers: int
    num_draft_waits: int
    draft_wait_s: float
    drafters: _containers.RepeatedScalarFieldContainer[str]
    draft_workers_rest: bool
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    measures: Measures
    metrics_address: str
    num_cached_blocks: int
    num_prefix_query_tokens: int
    num_drafts: int
    served_name: str
    attention: str
    num_decode_steps: int
    num_decode_step_sequences: int
    decode_steps_s: float
    num_prompt_step_tokens: int
    prompt_steps_s: float
    def __init__(self, worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., draining: _Optional[bool] = ..., fingerprint: _Optional[str] = ..., block_size: _Optional[int] = ..., max_model_len: _Optional[int] = ..., num_blocks: _Optional[int] = ..., num_free_blocks: _Optional[int] = ..., num_quarantined_blocks: _Optional[int] = ..., num_running: _Optional[int] = ..., num_waiting: _Optional[int] = ..., num_waiting_tokens: _Optional[int] = ..., prefill_tokens_per_s: _Optional[float] = ..., since_progress_s: _Optional[float] = ..., num_steps: _Optional[int] = ..., added_block_hashes: _Optional[_Iterable[int]] = ..., removed_block_hashes: _Optional[_Iterable[int]] = ..., report_number: _Optional[int] = ..., num_referenced_blocks: _Optional[int] = ..., num_preemptions: _Optional[int] = ..., step_s: _Optional[float] = ..., kv_bytes_sent: _Optional[int] = ..., kv_bytes_received: _Optional[int] = ..., num_transfers: _Optional[int] = ..., num_failed_transfers: _Optional[int] = ..., num_prefix_hit_tokens: _Optional[int] = ..., num_prompt_tokens: _Optional[int] = ..., num_output_tokens: _Optional[int] = ..., max_sequences: _Optional[int] = ..., rank_addresses: _Optional[_Iterable[str]] = ..., num_states: _Optional[int] = ..., num_free_states: _Optional[int] = ..., drafted_by_place: _Optional[_Iterable[int]] = ..., accepted_by_place: _Optional[_Iterable[int]] = ..., drafting_s: _Optional[float] = ..., verifying_s: _Optional[float] = ..., drafts_per_decode: _Optional[float] = ..., num_cut_draft_tokens: _Optional[int] = ..., num_guess_hits: _Optional[int] = ..., num_guess_misses: _Optional[int] = ..., num_draft_peers: _Optional[int] = ..., num_draft_waits: _Optional[int] = ..., draft_wait_s: _Optional[float] = ..., drafters: _Optional[_Iterable[str]] = ..., draft_workers_rest: _Optional[bool] = ..., adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ..., measures: _Optional[_Union[Measures, _Mapping]] = ..., metrics_address: _Optional[str] = ..., num_cached_blocks: _Optional[int] = ..., num_prefix_query_tokens: _Optional[int] = ..., num_drafts: _Optional[int] = ..., served_name: _Optional[str] = ..., attention: _Optional[str] = ..., num_decode_steps: _Optional[int] = ..., num_decode_step_sequences: _Optional[int] = ..., decode_steps_s: _Optional[float] = ..., num_prompt_step_tokens: _Optional[int] = ..., prompt_steps_s: _Optional[float] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("counts", "sum")
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    sum: float
    def __init__(self, counts: _Optional[_Iterable[int]] = ..., sum: _Optional[float] = ...) -> None: ...

class LinkMeasures(_message.Message):
    __slots__ = ("transport", "bytes_sent", "bytes_received", "ticket_s", "transfer_s", "exposed_s", "wait_s", "idle_s")
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    TICKET_S_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_S_FIELD_NUMBER: _ClassVar[int]
    EXPOSED_S_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    IDLE_S_FIELD_NUMBER: _ClassVar[int]
    transport: str
    bytes_sent: int
    bytes_received: int
    ticket_s: Histogram
    transfer_s: Histogram
    exposed_s: Histogram
    wait_s: Histogram
    idle_s: Histogram
    def __init__(self, transport: _Optional[str] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., ticket_s: _Optional[_Union[Histogram, _Mapping]] = ..., transfer_s: _Optional[_Union[Histogram, _Mapping]] = ..., exposed_s: _Optional[_Union[Histogram, _Mapping]] = ..., wait_s: _Optional[_Union[Histogram, _Mapping]] = ..., idle_s: _Optional[_Union[Histogram, _Mapping]] = ...) -> None: ...

class Measures(_message.Message):
    __slots__ = ("prefill_step_s", "decode_step_s", "mixed_step_s", "draft_step_s", "batch_sequences", "batch_tokens", "queue_s", "prefill_s", "links")
    PREFILL_STEP_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_STEP_S_FIELD_NUMBER: _ClassVar[int]
    MIXED_STEP_S_FIELD_NUMBER: _ClassVar[int]
    DRAFT_STEP_S_FIELD_NUMBER: _ClassVar[int]
    BATCH_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    BATCH_TOKENS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    PREFILL_S_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    prefill_step_s: Histogram
    decode_step_s: Histogram
    mixed_step_s: Histogram
    draft_step_s: Histogram
    batch_sequences: Histogram
    batch_tokens: Histogram
    queue_s: Histogram
    prefill_s: Histogram
    links: _containers.RepeatedCompositeFieldContainer[LinkMeasures]
    def __init__(self, prefill_step_s: _Optional[_Union[Histogram, _Mapping]] = ..., decode_step_s: _Optional[_Union[Histogram, _Mapping]] = ..., mixed_step_s: _Optional[_Union[Histogram, _Mapping]] = ..., draft_step_s: _Optional[_Union[Histogram, _Mapping]] = ..., batch_sequences: _Optional[_Union[Histogram, _Mapping]] = ..., batch_tokens: _Optional[_Union[Histogram, _Mapping]] = ..., queue_s: _Optional[_Union[Histogram, _Mapping]] = ..., prefill_s: _Optional[_Union[Histogram, _Mapping]] = ..., links: _Optional[_Iterable[_Union[LinkMeasures, _Mapping]]] = ...) -> None: ...
