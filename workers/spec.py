"""What a worker is told when it starts: plain data that the controller makes and the actor takes."""

import enum
from dataclasses import dataclass, field

from workers.adapters.adapter import AdapterSpec


class Role(enum.StrEnum):
    """What a worker does now; state of the worker, not a class."""

    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"
    DRAFT = "draft"

    @property
    def decodes(self) -> bool:
        """Whether such workers write answers."""
        return self in (Role.DECODE, Role.MIXED)


SERVING_ROLES = (Role.PREFILL, Role.DECODE, Role.MIXED)  # whose workers take requests


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    block_size: int = 16
    memory_bytes: int = 1 << 30  # of KV blocks and of states; YAML key: memory
    max_model_len: int | None = None  # YAML: auto; the model's own limit, or what `memory_bytes` holds if that is less
    max_batched_tokens: int = 512
    max_sequences: int = 64
    prefix_cache: bool = True
    state_cache_spacing: int | None = None  # tokens between the states that it keeps of linear attention; YAML: auto
    chunked_prefill: bool = True
    async_scheduling: bool = True  # on a GPU: the next step is planned and launched while one runs
    sequence_parallel_over_tokens: int = 512  # of a gang whose ranks read prompts together: shorter chunks are not cut


KV_DTYPES = ("auto", "fp8")


@dataclass(frozen=True, slots=True, kw_only=True)
class KVSpec:
    dtype: str = "auto"  # of keys and values in blocks: auto (the model's) | fp8 (e4m3, on GPUs; half the memory)
    transport: str = "auto"  # auto | shm | nccl | gloo | grpc | cuda_ipc
    lease_s: float = 30.0
    max_pending: int = 256  # offers that wait on the decode side for blocks
    push: str = "layer"  # layer: as soon as a layer of a chunk is computed; bulk: after the prompt (for comparison)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationSpec:
    """How workers that decode guess ahead; what is written is the same."""

    # auto (what pays) | none | ngram (what followed the same words earlier in prompt and answer)
    # | draft (a draft model) | self (the model itself with some of its layers skipped)
    method: str = "auto"
    max_tokens: int = 8  # drafted in a row at most, of each sequence in a step
    # Guesses at each place of a draft, at most; 1: single paths. Above, trees of up to so many times max_tokens, whose
    # branches are what was likely before. YAML: auto; `workers.speculative.methods.tree_width`
    tree_width: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GangSpec:
    """The ranks of one worker, a process each, and which of them this one is. A gang of one is the plain worker.

    Ranks that divide the model lie side by side: the first `tensor_parallel` have the first piece of a prompt.
    """

    tensor_parallel: int = 1  # ranks that divide the model between them
    sequence_parallel: int = 1  # how often that is there, to divide prompts
    layer_parallel: int = 1  # of draft workers: ranks that share out the layers, whose attention they compute at once
    layer_group: int = 0  # layers that attend at once; 0: chosen at the start, at most `layer_parallel`
    rank: int = 0  # 0 leads: it has the engine and the service; the others compute what it says
    lobby: str = ""  # host:port where the leader waits for the others; the leader makes it
    shares_device: bool = False  # the ranks are more than the GPUs

    @property
    def size(self) -> int:
        return self.tensor_parallel * self.sequence_parallel * self.layer_parallel


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    worker_id: str  # unique in the cluster, e.g. "decode-0"
    role: Role
    model: str  # local folder (names and Hub ids are resolved before)
    model_name: str = ""  # what `model` came from, for a machine that has no such folder; empty: it is on all of them
    served_name: str
    dtype: str  # bfloat16 | float16 | float32
    device: str  # cpu | cuda
    load_format: str = "auto"  # auto | dummy
    seed: int = 0  # of dummy weights
    engine: EngineSpec = EngineSpec()
    kv: KVSpec = KVSpec()
    speculation: SpeculationSpec = SpeculationSpec()
    draft_model: str = ""  # local folder of the model that a worker which decodes drafts with itself; empty: none
    draft_model_name: str = ""  # as `model_name`
    draft_overlap: bool = True  # draft workers guess on while this one verifies; False: for comparison
    adapters: tuple[AdapterSpec, ...] = ()  # LoRA, that requests may name; their ids are their places, from 1
    has_draft_workers: bool = False  # workers of their own draft for one that decodes, as each request says
    gang: GangSpec = GangSpec()
    secret: str = field(default="", repr=False)
    cores: tuple[int, ...] = ()  # CPU cores to pin to; empty: not pinned
    num_threads: int = 0  # of torch; 0: one per core
    host: str = "127.0.0.1"  # address that the worker's servers bind
    public_metrics: bool = False  # its /metrics wants no token
    fake: bool = False  # a deterministic model without torch, for tests of the control plane
    fake_step_s: float = 0.0
