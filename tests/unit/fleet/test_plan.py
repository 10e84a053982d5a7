"""What a config makes of workers that draft."""

from dataclasses import replace
from pathlib import Path

import pytest

from baton.errors import ConfigError
from cluster.config.load import loads
from cluster.config.schema import BatonConfig
from cluster.fleet.plan import (
    FleetPlan,
    NeedsDownError,
    check_change,
    from_text,
    resolve,
    to_text,
    with_workers,
    worker_spec,
)
from cluster.local.draft_preflight import draft_ranks_bytes
from cluster.models.draft_memory import draft_memory_bytes
from cluster.models.find import Silent, draft_in_full, find_draft, resolve_config
from workers.model.registry import resolve_model
from workers.spec import GangSpec, Role, WorkerSpec
from workers.speculative.who_drafts import who_drafts

POOL = "model: demo\npools: {draft: {workers: 1, model: demo-draft, layer_parallel: 2}}"
ITSELF = "model: demo\npools: {draft: {workers: 0, model: demo-draft}}"
MODEL, DRAFT = resolve_model("demo"), resolve_model("demo-draft")


def plan(text: str) -> FleetPlan:
    config = resolve_config(loads(text), Silent())
    return FleetPlan(config=config, model_path=str(resolve_model("demo")), draft_path=find_draft(config))


def spec(text: str, role: Role, rank: int = 0) -> WorkerSpec:
    return worker_spec(plan(text), f"{role}-0", role, cores=(0,), host="127.0.0.1", secret="s", rank=rank)


def test_a_draft_worker_is_told_the_draft_model_and_its_layers_ranks() -> None:
    told = spec(POOL, Role.DRAFT, rank=1)
    assert (told.model, told.model_name, told.draft_model) == (str(DRAFT), "demo-draft", "")
    assert told.gang == GangSpec(layer_parallel=2, rank=1)
    assert plan(POOL).desired[Role.DRAFT] == 1
    assert plan(POOL).num_ranks == 4


def test_what_is_said_of_the_served_models_texts_and_states_is_not_said_of_the_draft_model() -> None:
    told = spec(f"{POOL}\nengine: {{max_model_len: 512, state_cache_spacing: 64}}", Role.DRAFT)
    assert (told.engine.max_model_len, told.engine.state_cache_spacing) == (None, None)


def test_beside_draft_workers_the_others_are_told_nothing_of_their_model() -> None:
    told = spec(POOL, Role.DECODE)
    assert (told.model_name, told.draft_model, told.draft_model_name) == ("demo", "", "")
    assert told.has_draft_workers
    assert who_drafts(told) == ("ngram", "draft workers")
    assert who_drafts(spec(f"{POOL}\nspeculation: {{method: draft}}", Role.DECODE)) == ("ngram", "draft workers")
    assert spec(POOL, Role.PREFILL).has_draft_workers  # it may come to decode, as in the next
    assert not spec(POOL, Role.DRAFT).has_draft_workers
    assert who_drafts(spec(POOL, Role.DRAFT)) == ()


def test_without_draft_workers_those_that_decode_draft_themselves() -> None:
    told = spec(ITSELF, Role.DECODE)
    assert (told.draft_model, told.draft_model_name) == (str(DRAFT), "demo-draft")
    assert spec(ITSELF, Role.PREFILL).draft_model == str(DRAFT)
    assert who_drafts(told) == ("ngram", "demo-draft")
    assert who_drafts(spec("model: demo\nspeculation: {method: draft}", Role.DECODE)) == ("demo-draft",)
    assert who_drafts(spec("model: demo\nspeculation: {method: none}", Role.DECODE)) == ()
    assert who_drafts(spec("model: demo\nspeculation: {method: ngram}", Role.DECODE)) == ("ngram",)


@pytest.mark.parametrize(
    "text", ["model: demo\npools: {draft: {workers: 1}}", "model: demo\nspeculation: {method: draft}"]
)
def test_the_bundled_model_s_own_draft_is_taken_where_none_is_named(text: str) -> None:
    assert plan(text).config.pools.draft.model == "demo-draft"
    assert plan("model: demo").config.pools.draft.model == ""


def test_a_draft_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^pools\.draft\.model: 'nothing-such' is no folder; give a bundled name"):
        find_draft(loads("pools: {draft: {model: nothing-such}}"))


def test_a_draft_model_s_folder_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for name, full in (("mine", str(tmp_path / "mine")), ("demo-draft", "demo-draft"), ("org/name", "org/name")):
        assert draft_in_full(loads(f"pools: {{draft: {{model: {name}}}}}")).pools.draft.model == full
    assert draft_in_full(BatonConfig()) == BatonConfig()


def _with_memory(text: str, memory: int) -> BatonConfig:
    config = loads(text)
    return replace(config, engine=replace(config.engine, memory_bytes=memory))


def test_a_draft_worker_has_memory_for_what_the_workers_that_decode_hold_and_engine_memory_at_most() -> None:
    one = _with_memory(POOL, 64 << 20)
    share = 2 * (6 * 2) / (8 * 3)  # twice, layers times heads of KV
    assert draft_memory_bytes(one, MODEL, DRAFT) == int(share * (64 << 20))
    two = _with_memory("pools: {decode: {workers: 2}, draft: {workers: 4, model: demo-draft}}", 64 << 20)
    assert draft_memory_bytes(two, MODEL, DRAFT) == int(share * (64 << 20)) // 2
    many = _with_memory("pools: {decode: {workers: 9}, draft: {workers: 1, model: demo-draft}}", 64 << 20)
    assert draft_memory_bytes(many, MODEL, DRAFT) == 64 << 20
    assert spec(POOL, Role.DRAFT).engine.memory_bytes == 1 << 30
    assert spec(POOL, Role.DECODE).engine.memory_bytes == 1 << 30


def test_a_draft_worker_is_not_held_to_lengths_of_the_served_model() -> None:
    text = f"{POOL}\nengine: {{max_model_len: 4096, state_cache_spacing: 2048}}"
    told = spec(text, Role.DRAFT).engine
    assert (told.max_model_len, told.state_cache_spacing) == (None, None)
    assert spec(text, Role.DECODE).engine.max_model_len == 4096


def test_copies_of_the_draft_model_are_counted() -> None:
    assert draft_ranks_bytes(_with_memory(POOL, 1 << 20), DRAFT, MODEL, 1000) == 2000 + (1 << 20)
    kv_bytes = (1 << 20) * (6 * 2) // (8 * 3)  # layers times heads of KV
    assert draft_ranks_bytes(_with_memory(ITSELF, 1 << 20), DRAFT, MODEL, 1000) == 1000 + kv_bytes


def test_what_the_open_ports_come_from_cannot_change_and_is_named() -> None:
    check_change(plan(POOL), plan(POOL.replace("workers: 1", "workers: 3")))
    check_change(plan(ITSELF), plan(f"{POOL}\nengine: {{block_size: 32}}"))
    text = r"http\.port: 8000 cannot become 8001 while the cluster runs \(and grpc\.port\); run `baton down` first"
    with pytest.raises(NeedsDownError, match=text):
        check_change(plan(POOL), plan(f"{POOL}\nhttp: {{port: 8001}}\ngrpc: {{port: 9001}}"))


def test_keys_and_values_in_fp8_are_for_a_gpu() -> None:
    config = loads("model: demo\nkv: {dtype: fp8}")
    with pytest.raises(ConfigError, match=r"kv\.dtype: fp8 is read by a GPU's kernels, and device: auto is cpu here"):
        resolve(config, device="cpu", dtype="float32", model_path="/m")
    found = resolve(config, device="cuda", dtype="bfloat16", model_path="/m")
    assert worker_spec(found, "decode-0", Role.DECODE, cores=(), host="h", secret="").kv.dtype == "fp8"


def test_a_plan_is_kept_as_it_is() -> None:
    kept = replace(plan(f"{POOL}\nadapters: {{}}"), drained=("a", "b"))
    assert from_text(to_text(kept)) == kept


def test_workers_are_counted_anew_in_one_pool_alone() -> None:
    old = plan("model: demo\npools: {prefill: {workers: 1}, decode: {workers: 2}}")
    new = with_workers(old, {Role.DECODE: 3})
    assert (new.desired[Role.PREFILL], new.desired[Role.DECODE]) == (1, 3)
    check_change(old, new)
