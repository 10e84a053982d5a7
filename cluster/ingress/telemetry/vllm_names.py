"""The common metrics under vLLM's names too, so that dashboards, autoscalers and gateways made for it work.

Label `model_name`; of a worker also `engine`, its id, as vLLM has one for each of its engines.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from prometheus_client.metrics_core import Metric

from baton.v1.worker_pb2 import Histogram
from cluster.ingress.telemetry import request_metrics as ours
from workers.telemetry.bounds import BATCH_TOKENS, PREFILL_S, QUEUE_S
from workers.telemetry.described import Bars, Described, Labels, counter, gauge, histogram
from workers.telemetry.families import Told

PREFIX = "vllm:"
OF_REQUESTS: Mapping[str, Described] = {
    "vllm:prompt_tokens_total": ours.PROMPT_TOKENS,
    "vllm:generation_tokens_total": ours.OUTPUT_TOKENS,
    "vllm:request_success_total": ours.FINISHED,
    "vllm:time_to_first_token_seconds": ours.TTFT,
    "vllm:inter_token_latency_seconds": ours.ITL,
    "vllm:request_time_per_output_token_seconds": ours.TPOT,
    "vllm:e2e_request_latency_seconds": ours.E2E,
    "vllm:request_decode_time_seconds": ours.DECODE,
    "vllm:request_prompt_tokens": ours.PROMPT_LENGTH,
    "vllm:request_generation_tokens": ours.OUTPUT_LENGTH,
}
_LABELS = {"model": "model_name", "reason": "finished_reason"}


class _Row(NamedTuple):
    described: Described
    values: Callable[[Told], Iterable[tuple[Labels, float]]]


class _Bars(NamedTuple):
    described: Described
    bounds: Sequence[float]
    of: Callable[[Told], Histogram]


def _usage(told: Told) -> float:
    state = told.state
    return 1.0 - state.num_free_blocks / state.num_blocks if state.num_blocks else 0.0


def _one(described: Described, value: Callable[[Told], float]) -> _Row:
    return _Row(described, lambda told: [((), value(told))])


_ROWS: Sequence[_Row] = (
    _one(gauge("vllm:num_requests_running", "sequences", "In a worker's batch"), lambda t: t.state.num_running),
    _one(gauge("vllm:num_requests_waiting", "sequences", "That wait at a worker"), lambda t: t.state.num_waiting),
    _one(gauge("vllm:kv_cache_usage_perc", "ratio", "Of KV blocks, those in use: 0 to 1"), _usage),
    _one(counter("vllm:prefix_cache_queries_total", "tokens", "Looked up in the prefix cache"),
         lambda t: t.state.num_prefix_query_tokens),
    _one(counter("vllm:prefix_cache_hits_total", "tokens", "Found there"), lambda t: t.state.num_prefix_hit_tokens),
    _one(counter("vllm:num_preemptions_total", "sequences", "Preempted"), lambda t: t.state.num_preemptions),
    _one(counter("vllm:spec_decode_num_drafts_total", "drafts", "Verified"), lambda t: t.state.num_drafts),
    _one(counter("vllm:spec_decode_num_draft_tokens_total", "tokens", "Drafted and verified"),
         lambda t: sum(t.state.drafted_by_place)),
    _one(counter("vllm:spec_decode_num_accepted_tokens_total", "tokens", "Of them right"),
         lambda t: sum(t.state.accepted_by_place)),
    _Row(counter("vllm:spec_decode_num_accepted_tokens_per_pos_total", "tokens", "Right, by place from 0", "position"),
         lambda t: (((str(place),), count) for place, count in enumerate(t.state.accepted_by_place))),
    _Row(gauge("vllm:cache_config_info", "1", "Of a worker's KV blocks", "block_size", "num_gpu_blocks"),
         lambda t: [((str(t.state.block_size), str(t.state.num_blocks)), 1.0)]),
)  # fmt: skip
_BARS: Sequence[_Bars] = (
    _Bars(histogram("vllm:iteration_tokens_total", "tokens", "Computed in one step"), BATCH_TOKENS,
          lambda t: t.measures.batch_tokens),
    _Bars(histogram("vllm:request_queue_time_seconds", "seconds", "That requests waited at a worker"), QUEUE_S,
          lambda t: t.measures.queue_s),
    _Bars(histogram("vllm:request_prefill_time_seconds", "seconds", "From then until the prompt was read"), PREFILL_S,
          lambda t: t.measures.prefill_s),
)  # fmt: skip


def request_families(counted: Iterable[Metric]) -> Iterator[Metric]:
    """`counted`: of an ingress replica, under our names."""
    families = {family.name: family for family in counted}
    for name, described in OF_REQUESTS.items():
        family = families.get(described.name.removesuffix("_total"))
        if family is not None:
            yield _renamed(family, name.removesuffix("_total"))


def worker_families(told: Sequence[Told]) -> Iterator[Metric]:
    for row in _ROWS:
        yield _own(row.described).family((_labels(one, more), value) for one in told for more, value in row.values(one))
    for bars in _BARS:
        yield _own(bars.described).histogram(_bars(bars, told))


def vllm_metrics() -> Iterator[Described]:
    for name, described in OF_REQUESTS.items():
        yield replace(described, name=name, labels=tuple(_LABELS[label] for label in described.labels))
    for described in (*(row.described for row in _ROWS), *(bars.described for bars in _BARS)):
        yield _own(described)


def _own(described: Described) -> Described:
    return replace(described, labels=("model_name", "engine", *described.labels))


def _labels(told: Told, more: Labels) -> Labels:
    return (told.model, told.worker_id, *more)


def _bars(bars: _Bars, told: Sequence[Told]) -> Iterator[Bars]:
    for one in told:
        found = bars.of(one)
        yield _labels(one, ()), bars.bounds, found.counts, found.sum


def _renamed(family: Metric, name: str) -> Metric:
    renamed = Metric(name, family.documentation, family.type)
    for sample in family.samples:
        labels = {_LABELS[label]: value for label, value in sample.labels.items() if label in _LABELS}
        more = {"le": sample.labels["le"]} if "le" in sample.labels else {}
        suffix = sample.name.removeprefix(family.name)
        renamed.samples.append(sample._replace(name=name + suffix, labels={**labels, **more}))
    return renamed
