"""Which drafters a worker's spec asks for, and what is refused of a draft model."""

import asyncio
from dataclasses import replace

import pytest

from baton.errors import ConfigError
from tests.models import tiny
from tests.unit.engine.driver import make_spec as fake_spec
from tests.unit.model.driver import make_spec
from workers.draft_actor import DraftActor
from workers.model.fake import FakeRunner
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, Role, SpeculationSpec, WorkerSpec
from workers.speculative.choose import choose_speculation
from workers.speculative.draft_runner import load_draft_runner


def spec_of(method: str, draft_model: str = "", **fields: object) -> WorkerSpec:
    spec = make_spec(tiny("llama"), **fields)
    return replace(spec, draft_model=draft_model, speculation=SpeculationSpec(method=method, max_tokens=4))


def test_a_draft_models_blocks_hold_the_tokens_that_the_targets_do() -> None:
    spec = spec_of("draft", str(tiny("qwen3", num_hidden_layers=1)), max_model_len=None)
    target = TorchRunner(spec)
    runner = load_draft_runner(spec, target)
    length = min(target.max_model_len, runner.max_model_len)
    assert runner.num_blocks == min(target.num_blocks, spec.engine.max_sequences * -(-length // 4))
    assert runner.store.block_size == target.store.block_size
    few = replace(spec, engine=EngineSpec(block_size=4, memory_bytes=1 << 20, max_sequences=2))
    assert load_draft_runner(few, target).num_blocks == 2 * 256 // 4


def test_another_vocabulary_is_refused_with_both_sizes() -> None:
    spec = replace(spec_of("draft", str(tiny("llama", vocab_size=128))), draft_model_name="small", model_name="large")
    with pytest.raises(ConfigError, match="draft_model: small has a vocabulary of 128 tokens, large one of 160; give"):
        choose_speculation(spec, TorchRunner(spec))
    fake = replace(fake_spec(), draft_model=str(tiny("llama")), speculation=SpeculationSpec(method="auto"))
    with pytest.raises(ConfigError, match=r"vocabulary of 160 tokens, fake one of 512; give"):
        choose_speculation(fake, FakeRunner(fake))


def test_a_draft_model_with_linear_attention_is_refused() -> None:
    spec = spec_of("auto", str(tiny("qwen3_next")))
    with pytest.raises(ConfigError, match=r"draft_model: .* keeps a state .*; give a model without linear attention"):
        choose_speculation(spec, TorchRunner(spec))


def test_a_draft_worker_refuses_a_model_that_keeps_states() -> None:
    spec = replace(fake_spec(Role.DRAFT), model_name="some-hybrid")
    runner = FakeRunner(spec)
    runner.num_states = 4
    with pytest.raises(ConfigError, match=r"pools.draft.model: some-hybrid keeps a state .*; give a model without"):
        asyncio.run(DraftActor(spec, "i1")._serve(runner, None))  # type: ignore[arg-type]


def test_a_draft_model_that_is_not_there_is_refused() -> None:
    spec = spec_of("draft", "/nowhere")
    with pytest.raises(ConfigError, match=r"/nowhere has no config.json"):
        choose_speculation(spec, TorchRunner(spec))


def test_draft_without_a_draft_model_takes_what_draft_workers_guess() -> None:
    spec = replace(fake_spec(), speculation=SpeculationSpec(method="draft"))
    speculation = choose_speculation(spec, FakeRunner(spec))
    assert speculation is not None
    assert speculation.job_watch is not None


@pytest.mark.parametrize(("method", "role"), [("none", Role.DECODE), ("auto", Role.PREFILL), ("ngram", Role.DECODE)])
def test_a_draft_model_that_nobody_asks_is_not_loaded(method: str, role: Role) -> None:
    spec = replace(fake_spec(role), draft_model="/nowhere", speculation=SpeculationSpec(method=method))
    assert (choose_speculation(spec, FakeRunner(spec)) is None) == (method != "ngram")
