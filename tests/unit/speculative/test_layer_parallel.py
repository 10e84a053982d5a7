"""Layer-parallel drafting on one rank: exact in order, near in groups, and exact again after a calibration."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from baton.errors import ConfigError
from tests.models import tiny
from tests.unit.model.driver import Driver, generate, make_spec, prompts_of
from tests.unit.parallel.lone_ranks import LoneRanks
from tests.unit.speculative.drafting_rounds import NUM_LAYERS, Drafting, model
from workers.model.contract import Chunk, ChunkKind, Row
from workers.model.runner import TorchRunner
from workers.spec import GangSpec, Role, WorkerSpec
from workers.speculative.layer_agreement import CONTEXT, WINDOW, agreement, most_that_agree, sample_tokens
from workers.speculative.layer_division import FAMILIES
from workers.speculative.layer_parallel import LayerParallelRunner, check_gang
from workers.speculative.layer_plan import LayerPlan

PROMPTS = prompts_of(random.Random(5), (1, 4, 17), 160)
DEPTH = 6
QUICK = ("llama", "gemma2", "olmo2", "granite")
SOME_FAMILIES = [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in sorted(FAMILIES)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spec(folder: Path, group: int = 1, ranks: int = 1, **fields: object) -> WorkerSpec:
    gang = GangSpec(layer_parallel=ranks, layer_group=group)
    return replace(make_spec(folder, role=Role.DRAFT, **fields), gang=gang)


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_what_is_no_draft_is_exact_whatever_the_groups(family: str) -> None:
    folder = model(family)
    driver = Driver(LayerParallelRunner(spec(folder, group=3)))  # type: ignore[arg-type]
    streams = [driver.add(prompt, DEPTH) for prompt in PROMPTS]
    driver.finish()
    assert [stream.tokens for stream in streams] == [want.tokens for want in generate(folder, PROMPTS, DEPTH)]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "olmo2"])
def test_drafts_with_one_layer_at_once_are_the_plain_models_and_with_more_are_not(family: str) -> None:
    folder = model(family)
    plain = Drafting(TorchRunner(spec(folder)), PROMPTS)
    plain.round(DEPTH)
    for group in (1, 2, 4):
        drafting = Drafting(LayerParallelRunner(spec(folder, group)), PROMPTS)
        drafting.round(DEPTH)
        assert (drafting.outputs == plain.outputs) is (group == 1)
        assert [tokens[0] for tokens in drafting.outputs] == [tokens[0] for tokens in plain.outputs]


@pytest.mark.parametrize("native", [True, False])
def test_drafts_are_those_of_the_algorithm(native: bool) -> None:
    """Against transformers' own modules, put together as EasySpec's Algorithm 1 says."""
    folder = model("llama")
    prompt = PROMPTS[2]
    runner = LayerParallelRunner(spec(folder, 3), native=native)
    chunk = Chunk(token_ids=prompt, start=0, block_ids=range(8), num_sequence_tokens=len(prompt), kind=ChunkKind.DRAFT)
    found = runner.compute([chunk], [Row(0, len(prompt) - 1)])
    torch.testing.assert_close(found, by_hand(folder, prompt, [[0], [1, 2, 3], [4], [5]]), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def by_hand(folder: Path, prompt: list[int], groups: list[list[int]]) -> Tensor:
    from transformers import AutoModelForCausalLM

    auto_model: object = AutoModelForCausalLM
    whole = auto_model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")  # type: ignore[attr-defined]
    inner, places = whole.model, torch.arange(len(prompt))[None]
    h = inner.embed_tokens(torch.tensor([prompt]))
    mask = torch.full((len(prompt), len(prompt)), float("-inf")).triu(1)[None, None]
    shared = {"position_embeddings": inner.rotary_emb(h, places), "attention_mask": mask, "position_ids": places}
    for group in groups:
        layers = [inner.layers[index] for index in group]
        answers = [layer.self_attn(hidden_states=layer.input_layernorm(h), **shared)[0] for layer in layers]
        for layer, answer in zip(layers, answers, strict=True):
            h = h + answer
            h = h + layer.mlp(layer.post_attention_layernorm(h))
    logits: Tensor = whole.lm_head(inner.norm(h))[0]
    return logits


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.3)])
def test_halves_in_one_call_of_c_draft_as_the_models_own_code(dtype: str, tolerance: float) -> None:
    """Of few rows and of many, which take other ways where weights are bfloat16."""
    folder = Path("workers/model/bundled/demo-draft").resolve()
    native, plain = (LayerParallelRunner(spec(folder, 2, dtype=dtype), native=flag) for flag in (True, False))
    for length in (3, 17):
        chunk = Chunk(
            token_ids=range(40, 40 + length),
            start=0,
            block_ids=range(5),
            num_sequence_tokens=length,
            kind=ChunkKind.DRAFT,
        )
        found, wanted = (one.compute([chunk], [Row(0, length - 1)]) for one in (native, plain))
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0.05)


def test_after_a_calibration_it_is_as_if_nothing_had_been_drafted() -> None:
    folder = model("qwen3")
    plain, drafting = (Drafting(LayerParallelRunner(spec(folder, group)), PROMPTS) for group in (1, 4))
    for _ in range(2):
        plain.step(ChunkKind.DECODE)
    drafting.round(DEPTH)  # one token exactly, the others nearly
    drafting.reject(DEPTH - 1)
    drafting.read_again(1)
    drafting.step(ChunkKind.DECODE)
    drafting.round(DEPTH)
    drafting.reject(DEPTH)
    drafting.read_again(1)
    for _ in range(4):
        plain.step(ChunkKind.DECODE)
        drafting.step(ChunkKind.DECODE)
    assert drafting.outputs == plain.outputs
    for ours, theirs in zip(drafting.logprobs, plain.logprobs, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_step_that_is_not_all_drafts_is_exact() -> None:
    runner = LayerParallelRunner(spec(model("llama"), 4))
    chunks = [
        Chunk(token_ids=[3, 4, 5], start=0, block_ids=[number], num_sequence_tokens=3, kind=kind)
        for number, kind in enumerate((ChunkKind.DRAFT, ChunkKind.DECODE))
    ]
    mixed = runner.compute(chunks, [Row(0, 0), Row(1, 0)])
    near = runner.compute(chunks[:1], [Row(0, 0)])
    assert mixed is not None
    torch.testing.assert_close(mixed[0], mixed[1])
    assert not torch.allclose(mixed[:1], near, atol=1e-2)


@pytest.mark.parametrize("width", [96, 95])
def test_each_rank_keeps_the_attention_and_the_kv_of_its_own_layers_alone(width: int) -> None:
    """MLPs are divided, or whole on every rank where their width does not divide."""
    folder = tiny("llama", num_hidden_layers=NUM_LAYERS, intermediate_size=width)
    whole = LayerParallelRunner(spec(folder), native=False)
    shares = [
        LayerParallelRunner(spec(folder, 2, ranks=2), native=False, ranks=LoneRanks(rank, 2)) for rank in range(2)
    ]
    assert [list(share.held.layers) for share in shares] == [[0, 1, 3], [2, 4, 5]]
    assert sum(share.held.kv_nbytes for share in shares) == whole.held.kv_nbytes
    attention = [
        {name: weight for name, weight in share.model.named_parameters() if "q_proj" in name or "o_proj" in name}
        for share in (whole, *shares)
    ]
    assert [len(names) for names in attention] == [12, 6, 6]
    assert attention[0].keys() == attention[1].keys() | attention[2].keys()
    gates = [next(weight for name, weight in one.model.named_parameters() if "gate" in name) for one in shares]
    assert [gate.shape[0] for gate in gates] == [width // 2 if width % 2 == 0 else width] * 2
    assert {share.num_blocks for share in shares} == {whole.num_blocks}


@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 6))
def test_groups_are_all_layers_in_order_the_first_and_the_last_alone(layers: int, ranks: int, group: int) -> None:
    plan = LayerPlan(num_layers=layers, num_ranks=ranks, group_size=group)
    groups = [list(one) for one in plan.groups()]
    assert [layer for one in groups for layer in one] == list(range(layers))
    assert len(groups[0]) == len(groups[-1]) == 1
    assert all(len(one) == group for one in groups[1:-2])
    assert sorted(layer for rank in range(ranks) for layer in plan.owned(rank)) == list(range(layers))
    for one in groups:
        owners = [plan.owner(layer) for layer in one]
        assert max(map(owners.count, owners)) == -(-len(one) // ranks), "no rank has two where another has none"


@pytest.mark.parametrize(
    ("family", "gang", "words"),
    [
        ("llama", GangSpec(layer_parallel=5), "layer_parallel: 5 is above the 4 layers .* model's 6 .* set at most 4"),
        ("llama", GangSpec(layer_parallel=2, layer_group=5), "layer_group: 5 is above the 4 layers .* model's 6"),
        ("qwen3_moe", GangSpec(layer_parallel=2), "layer_parallel: 2 is not supported for 'qwen3_moe' models"),
        ("qwen3_5_text", GangSpec(layer_parallel=2), "layer_parallel: 2 is not supported for 'qwen3_5_text' models"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_by_name(family: str, gang: GangSpec, words: str) -> None:
    types = {"layer_types": ["linear_attention", "full_attention"] * 3} if family == "qwen3_5_text" else {}
    folder = tiny(family, num_hidden_layers=NUM_LAYERS, **types)
    with pytest.raises(ConfigError, match=words):
        LayerParallelRunner(replace(spec(folder), gang=gang), ranks=LoneRanks(0, gang.layer_parallel))


@pytest.mark.parametrize(
    ("gang", "role", "words"),
    [
        (GangSpec(layer_parallel=2), Role.DECODE, "layer_parallel: 2 is for draft workers; a decode worker's answers"),
        (GangSpec(layer_parallel=2, tensor_parallel=2), Role.DRAFT, "layer_parallel: 2 beside tensor_parallel: 2"),
        (GangSpec(layer_parallel=2, sequence_parallel=3), Role.DRAFT, "layer_parallel: 2 beside sequence_parallel: 3"),
    ],
)
def test_gangs_that_share_out_layers_do_nothing_else(gang: GangSpec, role: Role, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_gang(gang, role)
    check_gang(GangSpec(tensor_parallel=2), Role.DECODE)


def test_agreement_is_the_share_of_drafted_places_and_the_most_layers_that_agree_are_taken() -> None:
    tokens = list(range(CONTEXT + 2 * WINDOW))

    def compute(chunks: list[Chunk], rows: list[Row]) -> Tensor:
        """Says the token itself, but another one for the first of each window where it drafts."""
        (chunk,) = chunks
        logits = torch.eye(len(tokens))[list(chunk.token_ids)]
        return logits.roll(1, 1) if chunk.kind is ChunkKind.DRAFT and chunk.start == CONTEXT else logits

    assert agreement(compute, tokens, range(99)) == 0.5  # type: ignore[arg-type]
    assert most_that_agree({1: 1.0, 2: 0.95, 3: 0.9, 4: 0.931}) == 4
    assert most_that_agree({1: 0.0, 2: 0.9}) == 1


def test_a_draft_model_with_a_tokenizer_is_measured_when_it_starts(caplog: pytest.LogCaptureFixture) -> None:
    demo = Path("workers/model/bundled/demo-draft").resolve()
    assert len(sample_tokens(demo, 100)) == 100
    runner = LayerParallelRunner(make_spec(demo, role=Role.DRAFT, max_model_len=128))
    found = runner.agreements([1, 2, 4])
    assert found[1] == 1.0
    assert 0.5 < found[4] <= found[2] < 1.0
    assert all(not layer.any() for layer in runner.store.layers)
    caplog.set_level("INFO")
    runner.warm_up()
    assert "group_size=1 agreement={1: 1.0}" in caplog.text


def test_without_a_tokenizer_as_many_layers_attend_at_once_as_there_are_ranks(caplog: pytest.LogCaptureFixture) -> None:
    runner = LayerParallelRunner(spec(model("llama"), 0, ranks=3), ranks=LoneRanks(0, 3))
    caplog.set_level("INFO")
    runner.warm_up()
    assert runner.plan.group_size == 3
    assert "without a tokenizer" in caplog.text
