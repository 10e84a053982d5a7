from baton.v1 import worker_pb2 as _worker_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FromSender(_message.Message):
    __slots__ = ("handshake", "offer", "ranges", "complete", "abort", "renew")
    HANDSHAKE_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    handshake: Handshake
    offer: Offer
    ranges: Ranges
    complete: Complete
    abort: AbortTransfer
    renew: Renew
    def __init__(self, handshake: _Optional[_Union[Handshake, _Mapping]] = ..., offer: _Optional[_Union[Offer, _Mapping]] = ..., ranges: _Optional[_Union[Ranges, _Mapping]] = ..., complete: _Optional[_Union[Complete, _Mapping]] = ..., abort: _Optional[_Union[AbortTransfer, _Mapping]] = ..., renew: _Optional[_Union[Renew, _Mapping]] = ...) -> None: ...

class FromReceiver(_message.Message):
    __slots__ = ("handshake", "ticket", "ack", "failed")
    HANDSHAKE_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    handshake: HandshakeReply
    ticket: Ticket
    ack: Ack
    failed: TransferFailed
    def __init__(self, handshake: _Optional[_Union[HandshakeReply, _Mapping]] = ..., ticket: _Optional[_Union[Ticket, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., failed: _Optional[_Union[TransferFailed, _Mapping]] = ...) -> None: ...

class Handshake(_message.Message):
    __slots__ = ("worker_id", "incarnation", "fingerprint", "dtype", "payloads", "block_size", "transport", "store_address", "store_prefix", "device", "host", "auto_transport", "lane")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    STORE_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STORE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    AUTO_TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    incarnation: str
    fingerprint: str
    dtype: str
    payloads: _containers.RepeatedCompositeFieldContainer[Payload]
    block_size: int
    transport: str
    store_address: str
    store_prefix: str
    device: str
    host: str
    auto_transport: bool
    lane: Lane
    def __init__(self, worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., fingerprint: _Optional[str] = ..., dtype: _Optional[str] = ..., payloads: _Optional[_Iterable[_Union[Payload, _Mapping]]] = ..., block_size: _Optional[int] = ..., transport: _Optional[str] = ..., store_address: _Optional[str] = ..., store_prefix: _Optional[str] = ..., device: _Optional[str] = ..., host: _Optional[str] = ..., auto_transport: _Optional[bool] = ..., lane: _Optional[_Union[Lane, _Mapping]] = ...) -> None: ...

class Lane(_message.Message):
    __slots__ = ("sender", "receiver", "turn", "num_turns")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    NUM_TURNS_FIELD_NUMBER: _ClassVar[int]
    sender: Place
    receiver: Place
    turn: int
    num_turns: int
    def __init__(self, sender: _Optional[_Union[Place, _Mapping]] = ..., receiver: _Optional[_Union[Place, _Mapping]] = ..., turn: _Optional[int] = ..., num_turns: _Optional[int] = ...) -> None: ...

class Place(_message.Message):
    __slots__ = ("rank", "degree")
    RANK_FIELD_NUMBER: _ClassVar[int]
    DEGREE_FIELD_NUMBER: _ClassVar[int]
    rank: int
    degree: int
    def __init__(self, rank: _Optional[int] = ..., degree: _Optional[int] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("layer", "unit", "layout", "unit_nbytes")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    UNIT_NBYTES_FIELD_NUMBER: _ClassVar[int]
    layer: int
    unit: str
    layout: str
    unit_nbytes: int
    def __init__(self, layer: _Optional[int] = ..., unit: _Optional[str] = ..., layout: _Optional[str] = ..., unit_nbytes: _Optional[int] = ...) -> None: ...

class HandshakeReply(_message.Message):
    __slots__ = ("worker_id", "incarnation", "refusal", "transport")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    incarnation: str
    refusal: str
    transport: str
    def __init__(self, worker_id: _Optional[str] = ..., incarnation: _Optional[str] = ..., refusal: _Optional[str] = ..., transport: _Optional[str] = ...) -> None: ...

class TransferKey(_message.Message):
    __slots__ = ("request_id", "attempt", "choice")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    attempt: int
    choice: int
    def __init__(self, request_id: _Optional[str] = ..., attempt: _Optional[int] = ..., choice: _Optional[int] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("key", "ingress_id", "submit")
    KEY_FIELD_NUMBER: _ClassVar[int]
    INGRESS_ID_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    key: TransferKey
    ingress_id: str
    submit: _worker_pb2.Submit
    def __init__(self, key: _Optional[_Union[TransferKey, _Mapping]] = ..., ingress_id: _Optional[str] = ..., submit: _Optional[_Union[_worker_pb2.Submit, _Mapping]] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("key", "num_cached_tokens")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    key: TransferKey
    num_cached_tokens: int
    def __init__(self, key: _Optional[_Union[TransferKey, _Mapping]] = ..., num_cached_tokens: _Optional[int] = ...) -> None: ...

class Ranges(_message.Message):
    __slots__ = ("ranges",)
    RANGES_FIELD_NUMBER: _ClassVar[int]
    ranges: _containers.RepeatedCompositeFieldContainer[Range]
    def __init__(self, ranges: _Optional[_Iterable[_Union[Range, _Mapping]]] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("key", "index", "start", "end", "payload")
    KEY_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    key: TransferKey
    index: int
    start: int
    end: int
    payload: bytes
    def __init__(self, key: _Optional[_Union[TransferKey, _Mapping]] = ..., index: _Optional[int] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class FirstToken(_message.Message):
    __slots__ = ("choice", "token_id")
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    choice: int
    token_id: int
    def __init__(self, choice: _Optional[int] = ..., token_id: _Optional[int] = ...) -> None: ...

class Complete(_message.Message):
    __slots__ = ("key", "num_tokens", "num_ranges", "first_tokens", "seal")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_RANGES_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    key: TransferKey
    num_tokens: int
    num_ranges: int
    first_tokens: _containers.RepeatedCompositeFieldContainer[FirstToken]
    seal: int
    def __init__(self, key: _Optional[_Union[TransferKey, _Mapping]] = ..., num_tokens: _Optional[int] = ..., num_ranges: _Optional[int] = ..., first_tokens: _Optional[_Iterable[_Union[FirstToken, _Mapping]]] = ..., seal: _Optional[int] = ...) -> None: ...

class AbortTransfer(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: TransferKey
    def __init__(self, key: _Optional[_Union[TransferKey, _Mapping]] = ...) -> None: ...

class Renew(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[TransferKey]
    def __init__(self, keys: _Optional[_Iterable[_Union[TransferKey, _Mapping]]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: TransferKey
    def __init__(self, key: _Optional[_Union[TransferKey, _Mapping]] = ...) -> None: ...

class TransferFailed(_message.Message):
    __slots__ = ("key", "error")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    key: TransferKey
    error: _worker_pb2.WorkerError
    def __init__(self, key: _Optional[_Union[TransferKey, _Mapping]] = ..., error: _Optional[_Union[_worker_pb2.WorkerError, _Mapping]] = ...) -> None: ...

class ToLane(_message.Message):
    __slots__ = ("lane", "key", "offer", "complete", "withdraw", "grant", "refuse", "abort")
    LANE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    WITHDRAW_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    REFUSE_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    lane: Lane
    key: TransferKey
    offer: OfferLane
    complete: CompleteLane
    withdraw: Empty
    grant: GrantLane
    refuse: _worker_pb2.WorkerError
    abort: EndedLane
    def __init__(self, lane: _Optional[_Union[Lane, _Mapping]] = ..., key: _Optional[_Union[TransferKey, _Mapping]] = ..., offer: _Optional[_Union[OfferLane, _Mapping]] = ..., complete: _Optional[_Union[CompleteLane, _Mapping]] = ..., withdraw: _Optional[_Union[Empty, _Mapping]] = ..., grant: _Optional[_Union[GrantLane, _Mapping]] = ..., refuse: _Optional[_Union[_worker_pb2.WorkerError, _Mapping]] = ..., abort: _Optional[_Union[EndedLane, _Mapping]] = ...) -> None: ...

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class OfferLane(_message.Message):
    __slots__ = ("ingress_id", "submit", "route", "num_tokens")
    INGRESS_ID_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ingress_id: str
    submit: _worker_pb2.Submit
    route: _worker_pb2.DecodeRoute
    num_tokens: int
    def __init__(self, ingress_id: _Optional[str] = ..., submit: _Optional[_Union[_worker_pb2.Submit, _Mapping]] = ..., route: _Optional[_Union[_worker_pb2.DecodeRoute, _Mapping]] = ..., num_tokens: _Optional[int] = ...) -> None: ...

class CompleteLane(_message.Message):
    __slots__ = ("num_tokens", "first_tokens", "num_steps")
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    num_tokens: int
    first_tokens: _containers.RepeatedCompositeFieldContainer[FirstToken]
    num_steps: int
    def __init__(self, num_tokens: _Optional[int] = ..., first_tokens: _Optional[_Iterable[_Union[FirstToken, _Mapping]]] = ..., num_steps: _Optional[int] = ...) -> None: ...

class GrantLane(_message.Message):
    __slots__ = ("block_ids", "num_cached_tokens", "state_ids", "num_steps")
    BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STATE_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    block_ids: _containers.RepeatedScalarFieldContainer[int]
    num_cached_tokens: int
    state_ids: _containers.RepeatedScalarFieldContainer[int]
    num_steps: int
    def __init__(self, block_ids: _Optional[_Iterable[int]] = ..., num_cached_tokens: _Optional[int] = ..., state_ids: _Optional[_Iterable[int]] = ..., num_steps: _Optional[int] = ...) -> None: ...

class FromLane(_message.Message):
    __slots__ = ("lane", "key", "ticketed", "acked", "ended", "offered", "arrived", "lost")
    LANE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TICKETED_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    OFFERED_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    lane: Lane
    key: TransferKey
    ticketed: int
    acked: Empty
    ended: EndedLane
    offered: Offer
    arrived: ArrivedLane
    lost: EndedLane
    def __init__(self, lane: _Optional[_Union[Lane, _Mapping]] = ..., key: _Optional[_Union[TransferKey, _Mapping]] = ..., ticketed: _Optional[int] = ..., acked: _Optional[_Union[Empty, _Mapping]] = ..., ended: _Optional[_Union[EndedLane, _Mapping]] = ..., offered: _Optional[_Union[Offer, _Mapping]] = ..., arrived: _Optional[_Union[ArrivedLane, _Mapping]] = ..., lost: _Optional[_Union[EndedLane, _Mapping]] = ...) -> None: ...

class EndedLane(_message.Message):
    __slots__ = ("error",)
    ERROR_FIELD_NUMBER: _ClassVar[int]
    error: _worker_pb2.WorkerError
    def __init__(self, error: _Optional[_Union[_worker_pb2.WorkerError, _Mapping]] = ...) -> None: ...

class ArrivedLane(_message.Message):
    __slots__ = ("num_tokens", "first_tokens")
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKENS_FIELD_NUMBER: _ClassVar[int]
    num_tokens: int
    first_tokens: _containers.RepeatedCompositeFieldContainer[FirstToken]
    def __init__(self, num_tokens: _Optional[int] = ..., first_tokens: _Optional[_Iterable[_Union[FirstToken, _Mapping]]] = ...) -> None: ...

class ToRank(_message.Message):
    __slots__ = ("command",)
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    command: ToLane
    def __init__(self, command: _Optional[_Union[ToLane, _Mapping]] = ...) -> None: ...

class FromRank(_message.Message):
    __slots__ = ("address", "events", "bytes_sent", "bytes_received")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    address: str
    events: _containers.RepeatedCompositeFieldContainer[FromLane]
    bytes_sent: int
    bytes_received: int
    def __init__(self, address: _Optional[str] = ..., events: _Optional[_Iterable[_Union[FromLane, _Mapping]]] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ...) -> None: ...

class StepHandover(_message.Message):
    __slots__ = ("num_commands", "chunks")
    NUM_COMMANDS_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    num_commands: _containers.RepeatedScalarFieldContainer[int]
    chunks: _containers.RepeatedCompositeFieldContainer[HandoverChunk]
    def __init__(self, num_commands: _Optional[_Iterable[int]] = ..., chunks: _Optional[_Iterable[_Union[HandoverChunk, _Mapping]]] = ...) -> None: ...

class HandoverChunk(_message.Message):
    __slots__ = ("key", "num_tokens", "block_ids", "state_ids")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    STATE_IDS_FIELD_NUMBER: _ClassVar[int]
    key: TransferKey
    num_tokens: int
    block_ids: _containers.RepeatedScalarFieldContainer[int]
    state_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, key: _Optional[_Union[TransferKey, _Mapping]] = ..., num_tokens: _Optional[int] = ..., block_ids: _Optional[_Iterable[int]] = ..., state_ids: _Optional[_Iterable[int]] = ...) -> None: ...
