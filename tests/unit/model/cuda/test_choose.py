"""Of the ways to attend, one that is right and fastest is taken; what fails or is wrong is left out with its reason."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from baton.errors import ConfigError
from workers.model import attention_torch
from workers.model.attention import PagedAttention, PagedMeta, Scoring
from workers.model.cuda.choose import Case, choose
from workers.model.cuda.inputs import StepInputs
from workers.model.cuda.kinds import Kind, filled
from workers.model.cuda.ways import Fixed, TorchWay, ways
from workers.model.fp8 import DTYPE, KVScales, read


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Fake:
    """Takes so many seconds for a token of a decode, and for one of a prompt."""

    name: str
    clock: Clock
    decode_s: float = 1.0
    prompt_s: float = 1.0
    is_ragged: bool = False
    off_by: float = 0.0
    error: Exception | None = None
    forgets_scales: bool = False
    seen: list[PagedMeta] = field(default_factory=list)

    def eager(self) -> PagedAttention:
        def attend(
            query: Tensor,
            k_cache: Tensor,
            v_cache: Tensor,
            meta: PagedMeta,
            scoring: Scoring,
            scales: KVScales | None = None,
        ) -> Tensor:
            if self.error is not None:
                raise self.error
            self.seen.append(meta)
            is_decode = meta.num_tokens == meta.num_chunks
            self.clock.now_s += self.decode_s if is_decode else self.prompt_s
            if scales is not None and self.forgets_scales:
                scales = KVScales.of(torch.ones_like(scales.factors))
            return attention_torch.paged_attention(query, k_cache, v_cache, meta, scoring, scales) + self.off_by

        return attend

    def fixed(self, inputs: StepInputs) -> Fixed:
        raise NotImplementedError


def _case(num_blocks: int = 40, max_sequences: int = 8, max_model_len: int = 200) -> Case:
    k_cache, v_cache = torch.randn(2, num_blocks, 16, 2, 16, generator=torch.Generator().manual_seed(1))
    return Case(
        kinds=[
            Kind(k_cache, v_cache, 4, Scoring(0.25), torch.float32),
            Kind(k_cache, v_cache, 4, Scoring(0.25, window=5), torch.float32),
        ],
        num_layers=3,
        max_sequences=max_sequences,
        max_chunk=64,
        max_model_len=max_model_len,
    )


def test_the_fastest_is_taken_for_decodes_and_for_other_steps() -> None:
    clock = Clock()
    slow, prompts, decodes = Fake("slow", clock, 3, 3), Fake("prompts", clock, 2, 1), Fake("decodes", clock, 1, 2)
    chosen = choose([slow, prompts, decodes], _case(), clock)
    assert (chosen.decode, chosen.mixed) == (decodes, prompts)
    assert chosen.text == "prompts, decodes for decodes"
    assert [(one.decode_s, one.mixed_s) for one in chosen.tried] == [(9, 9), (6, 3), (3, 6)], "of three layers"


def test_mixed_steps_have_graphs_wherever_a_way_can_replay_them() -> None:
    clock = Clock()
    plain, ragged = Fake("plain", clock, 2, 1), Fake("ragged", clock, 1, 2, is_ragged=True)
    assert choose([plain, ragged], _case(), clock).ragged is ragged
    assert choose([plain], _case(), clock).ragged is None


def test_every_kind_of_layer_is_tried_with_steps_of_every_shape_and_each_timed_step_is_a_new_one() -> None:
    clock = Clock()
    one = Fake("one", clock)
    choose([one, Fake("other", clock)], _case(), clock)
    tried, timed = one.seen[: 2 * 7], one.seen[2 * 7 :]
    assert sum(bool(meta.trees) for meta in tried) == 2 * 2
    assert len({id(meta) for meta in timed}) == 2 * 5
    assert len(timed) == 3 * 2 * 5


def test_where_ranks_must_agree_the_first_that_is_right_is_taken() -> None:
    clock = Clock()
    wrong, slow, fast = Fake("wrong", clock, off_by=1), Fake("slow", clock, 9, 9), Fake("fast", clock)
    chosen = choose([wrong, slow, fast], replace(_case(), is_timed=False), clock)
    assert (chosen.decode, chosen.mixed) == (slow, slow)


def test_where_nothing_works_the_last_is_taken() -> None:
    clock = Clock()
    fakes = [Fake(name, clock, error=MemoryError()) for name in ("first", "last")]
    assert choose(fakes, _case(), clock).mixed is fakes[-1]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"off_by": 0.1}, "off by 1.0e-01"),
        ({"off_by": float("nan")}, "nan"),
        ({"error": RuntimeError("no kernel")}, "no kernel"),
    ],
)
def test_what_is_wrong_or_fails_is_left_out(broken: dict[str, object], reason: str) -> None:
    clock = Clock()
    good = Fake("good", clock)
    chosen = choose([Fake("broken", clock, 0.1, 0.1, **broken), good], _case(), clock)  # type: ignore[arg-type]
    assert (chosen.decode, chosen.mixed) == (good, good)
    assert chosen.text == "good"
    assert reason in chosen.tried[0].reason


def test_one_alone_is_not_tried() -> None:
    clock = Clock()
    only = Fake("only", clock, error=RuntimeError())
    assert choose([only], _case(), clock).mixed is only


def test_in_fp8_a_way_that_forgets_the_factors_is_left_out_and_queries_are_of_the_models_dtype() -> None:
    scales = KVScales.of(torch.tensor([[0.5, 2.0], [3.0, 0.1]]))
    caches = torch.zeros(2, 40, 16, 2, 16, dtype=torch.uint8).view(DTYPE)
    kind = Kind(caches[0], caches[1], 4, Scoring(0.25), torch.float32, scales)
    right, forgetful = TorchWay(), Fake("forgetful", Clock(), forgets_scales=True)
    with filled([kind]):
        assert read(kind.v_cache, scales.value, torch.float32).std() == pytest.approx(1.0, abs=0.1)
        chosen = choose([forgetful, right], replace(_case(), kinds=[kind]))
    assert (chosen.decode, chosen.mixed) == (right, right)
    assert "off by" in chosen.tried[0].reason
    assert chosen.tried[1].reason == ""
    assert not caches.view(torch.uint8).any()


@pytest.mark.parametrize(
    ("num_blocks", "max_sequences", "max_model_len"), [(1, 1, 1), (2, 64, 16), (3, 4, 1000), (500, 256, 4096)]
)
def test_what_is_tried_fits_any_memory(num_blocks: int, max_sequences: int, max_model_len: int) -> None:
    case = _case(num_blocks, max_sequences, max_model_len)
    for meta in (case.decodes, case.mixed, *case.others):
        used = [block for blocks in meta.block_ids for block in blocks]
        assert used
        assert len(set(used)) == len(used)
        assert set(used) <= set(range(num_blocks))
    assert case.decodes.num_tokens == case.decodes.num_chunks <= max_sequences


def test_blocks_are_empty_again_after_the_trial() -> None:
    kind = _case().kinds[0]
    with filled([kind]):
        assert kind.k_cache.any()
    assert not kind.k_cache.any()
    assert not kind.v_cache.any()


def test_torch_is_always_there_and_last() -> None:
    assert isinstance(ways(torch.device("cpu"), {7, 300}, torch.float64)[-1], TorchWay)
    assert [way.name for way in ways(torch.device("cpu"), {300}, torch.float32)] == ["torch"]


def test_fp8_that_torch_alone_would_read_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"heads of 16 to 256 dimensions; this model's have 300; set kv\.dtype: auto"):
        ways(torch.device("cpu"), {300}, torch.bfloat16, is_fp8=True)
