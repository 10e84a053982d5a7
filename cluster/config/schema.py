"""The one YAML schema: frozen dataclasses, checked once here; inside, config is never changed.

Sizes take KiB/MiB/GiB suffixes; every key has a default; an unknown key, a wrong type or a value out of range is a
ConfigError that names the key, the value and the fix.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cluster.config.api_key import APIKey
from workers.spec import EngineSpec, GangSpec, KVSpec, SpeculationSpec

# These sections are what each worker is told.
EngineConfig = EngineSpec
KVConfig = KVSpec
SpeculationConfig = SpeculationSpec

AUTO = "auto"
PACK, SPREAD = "pack", "spread"
MAX_RANKS = 64  # of one worker
DEFAULT_MODEL = "smollm2"  # of a config that names none
FALLBACK_MODEL = "demo"  # where the default can be neither found nor fetched
MODEL_DRAFTS = ("auto", "draft")  # speculation.method: those for which a draft model is of use
DEFAULT_DRAFTS: Mapping[str, str] = {"demo": "demo-draft"}  # what drafts for a model where a config names nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    workers: int = 0
    tensor_parallel: int = 1  # ranks that divide the model between them
    sequence_parallel: int = 1  # of prefill alone: how often these ranks are there, to divide each long prompt
    placement: str = PACK  # pack: the ranks of a worker on one node; spread: on as many nodes as there are
    cores: tuple[tuple[int, ...], ...] | None = None  # per worker, all its ranks; None: the machine's cores shared out
    resources: Mapping[str, float] = field(default_factory=dict)  # Ray's custom ones, that each rank takes of its node
    labels: Mapping[str, str] = field(default_factory=dict)  # which nodes' labels it asks for: `config.node_terms`

    @property
    def gang(self) -> GangSpec:
        """How the ranks of one worker share its work."""
        return GangSpec(tensor_parallel=self.tensor_parallel, sequence_parallel=self.sequence_parallel)

    @property
    def num_ranks(self) -> int:
        """Of one worker."""
        return self.gang.size

    @property
    def is_choosy(self) -> bool:
        """Whether its ranks go to certain nodes alone, which may come yet."""
        return bool(self.resources or self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPoolConfig:
    """Workers that guess ahead with a model of their own, for those that decode."""

    workers: int = 0  # 0: where a model is named, each worker that decodes drafts with it itself
    model: str = ""  # as the config's own; empty: the served model's own, where something asks for one
    layer_parallel: int = 1  # layers of a draft worker's model that are computed at once, one on each of its ranks
    placement: str = PACK  # this and the next three: as of other pools
    cores: tuple[tuple[int, ...], ...] | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def gang(self) -> GangSpec:
        return GangSpec(layer_parallel=self.layer_parallel)

    @property
    def num_ranks(self) -> int:
        return self.gang.size

    @property
    def is_choosy(self) -> bool:
        return bool(self.resources or self.labels)


AnyPool = PoolConfig | DraftPoolConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolsConfig:
    """`mixed` workers serve both phases; without a `pools` key: one prefill and one decode worker."""

    prefill: PoolConfig = PoolConfig()
    decode: PoolConfig = PoolConfig()
    mixed: PoolConfig = PoolConfig()
    draft: DraftPoolConfig = DraftPoolConfig()

    def serving(self) -> Iterator[tuple[str, PoolConfig]]:
        """Those with workers that take requests."""
        for name, pool in (("prefill", self.prefill), ("decode", self.decode), ("mixed", self.mixed)):
            if pool.workers:
                yield name, pool

    def by_name(self) -> Iterator[tuple[str, AnyPool]]:
        """Those that have workers."""
        yield from self.serving()
        if self.draft.workers:
            yield "draft", self.draft


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptersDynamicConfig:
    """LoRA adapters that are loaded and unloaded while the cluster serves, over HTTP or by `baton adapter`."""

    folders: tuple[str, ...] = ()  # absolute; what is loaded lies below one of them. Empty: nothing is
    max_loaded: int = 16  # at once, with those of `adapters`


@dataclass(frozen=True, slots=True, kw_only=True)
class SLOConfig:
    ttft_ms: float = 500.0
    tpot_ms: float = 50.0
    attainment: float = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    max_queue: int = 256  # requests waiting per ingress replica
    max_running: int = 1024  # requests dispatched per ingress replica
    disaggregate_over_tokens: int = 64  # shorter uncached prompts are read by decode itself
    max_retries: int = 2  # new attempts after a lost worker
    request_timeout_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPConfig:
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    drain_timeout_s: float = 60.0  # a replica that is to go may finish its open answers for so long
    node_resource: str = (
        ""  # Ray's custom resource of which each replica takes 1; empty: one on the head, more anywhere
    )
    cors_origins: tuple[str, ...] = ()  # of web pages that may use the API from a browser; "*": all


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPCConfig:
    port: int = 9000


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSConfig:
    """Of both public ports. Absolute paths of PEM files, on every node that has a proxy; empty: plain connections."""

    certificate: str = ""  # with the chain below it
    key: str = ""  # not encrypted
    client_ca: str = ""  # a client must show a certificate of one of these authorities

    @property
    def is_on(self) -> bool:
        return bool(self.certificate)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """With neither, whoever reaches the public ports may use them."""

    keys_file: str = ""  # absolute, on every node that has an ingress replica; read again when it changes
    keys: tuple[APIKey, ...] = ()
    public_metrics: bool = False  # /metrics answers without a key

    @property
    def is_on(self) -> bool:
        return bool(self.keys_file or self.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Of what comes to the public ports, HTTP and gRPC, before anybody has looked at who sends it."""

    max_body_bytes: int = 16 << 20  # of an HTTP body and of a gRPC message; JSON of 16 MiB takes 0.1 s to parse
    max_header_bytes: int = 64 << 10  # of a request's line and headers
    header_timeout_s: float = 15.0  # from a connection, or a request's first byte, to the end of its headers
    body_timeout_s: float = 60.0  # from a request's headers to the end of its body
    max_connections: int = 4096  # more of them wait; where no HAProxy is in front, they are told 503


@dataclass(frozen=True, slots=True, kw_only=True)
class ParserConfig:
    """In which format the model writes something that clients get apart from its text."""

    parser: str = AUTO  # auto: as its chat template says; none: it is not looked for; or a format's name: docs/tools.md


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredConfig:
    """Of schemas, expressions and grammars that requests ask answers to follow."""

    max_size_bytes: int = 64 << 10  # of one, as JSON
    compile_timeout_s: float = 2.0  # a slower one is refused; most take milliseconds
    cache_bytes: int = 16 << 20  # of compiled ones' texts, that an ingress replica keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    step_timeout_s: float = 30.0  # work pending and no step finished for so long: wedged
    silence_timeout_s: float = 5.0  # a worker that answers nothing for so long is replaced; requests leave it within 2
    start_timeout_s: float = 300.0
    drain_timeout_s: float = 30.0  # a worker that is to go may finish what runs for so long


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerConfig:
    """Of the autopilot: the controller's planner over the load that it sees."""

    mode: str = "off"  # off | advise (says what it would change) | act
    interval_s: float = 30.0  # between two looks
    window_s: float = 300.0  # of load that it looks back on
    cooldown_s: float = 120.0  # after a change, before the next
    min_workers: int = 1  # of each pool that has any
    max_workers: int = 0  # of all pools that serve together; 0: as many as the config has, roles alone change
    max_error: float = 0.3  # of simulated TTFT and TPOT against measured ones; above it nothing is changed
    profile: str = ""  # what `baton profile` measured, a file of the head node; empty: see hardware
    hardware: str = ""  # a device by its data sheet, as for `baton plan`; both empty: costs are those that are seen


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingConfig:
    otlp_endpoint: str = ""  # a collector's, http://host:4318; empty: spans go nowhere
    sample_ratio: float = 1.0  # of requests that bring no decision of their own in `traceparent`
    keep: int = 1024  # recent requests whose timeline each ingress replica keeps for `baton trace`


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    format: str = "text"  # text | json
    access: bool = True  # one line for each request that ended


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    vllm_names: bool = False  # the common ones under vLLM's names too


@dataclass(frozen=True, slots=True, kw_only=True)
class BatonConfig:
    model: str = AUTO  # bundled name, local folder, GGUF file, or Hub id; auto: smollm2, else demo
    served_name: str = ""  # name clients use; empty: `model`, a path's last part
    allow_special_tokens: bool = True  # whether a special token's text in what a client sends is that token
    generation_defaults: str = "model"  # model | neutral: whose sampling values hold where a request has none
    tools: ParserConfig = ParserConfig()
    reasoning: ParserConfig = ParserConfig()
    dtype: str = "auto"  # auto | bfloat16 | float16 | float32
    device: str = "auto"  # auto | cpu | cuda
    load_format: str = "auto"  # auto | dummy | fake (no model at all: deterministic tokens, to measure everything else)
    fake_step_s: float = 0.0  # time that a step takes with load_format fake
    pools: PoolsConfig = field(
        default_factory=lambda: PoolsConfig(prefill=PoolConfig(workers=1), decode=PoolConfig(workers=1))
    )
    engine: EngineConfig = field(default_factory=EngineConfig)
    kv: KVConfig = field(default_factory=KVConfig)
    speculation: SpeculationConfig = field(default_factory=SpeculationConfig)
    adapters: Mapping[str, str] = field(default_factory=dict)  # LoRA: the name that clients use -> folder, as of PEFT
    adapters_dynamic: AdaptersDynamicConfig = AdaptersDynamicConfig()
    slo: SLOConfig = SLOConfig()
    router: RouterConfig = RouterConfig()
    http: HTTPConfig = HTTPConfig()
    grpc: GRPCConfig = GRPCConfig()
    tls: TLSConfig = TLSConfig()
    auth: AuthConfig = AuthConfig()
    limits: LimitsConfig = LimitsConfig()
    structured: StructuredConfig = StructuredConfig()
    health: HealthConfig = HealthConfig()
    planner: PlannerConfig = PlannerConfig()
    tracing: TracingConfig = TracingConfig()
    logging: LoggingConfig = LoggingConfig()
    metrics: MetricsConfig = MetricsConfig()
    models: Mapping[str, "ModelEntry"] = field(default_factory=dict)  # several: by their entries' names; empty: one

    @property
    def wants_draft_model(self) -> bool:
        """Whether something drafts with a model, named or not."""
        return bool(self.pools.draft.workers) or self.speculation.method == "draft"

    @property
    def drafts_locally(self) -> bool:
        """Whether each worker that decodes has the draft model itself."""
        return bool(self.pools.draft.model) and not self.pools.draft.workers and self.speculation.method in MODEL_DRAFTS

    @property
    def shown_name(self) -> str:
        """What clients call the model."""
        return self.served_name or self.model.rstrip("/").rsplit("/", 1)[-1].removesuffix(".gguf")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One of several models, or one version of a model: others have the same served name."""

    config: BatonConfig  # as if it were the only model
    weight: float = 1.0  # its part of the requests, among those of its served name
