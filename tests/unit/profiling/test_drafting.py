"""How often drafts are right is told by running both models as workers."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config.load import loads
from cluster.models.find import with_draft
from cluster.profiling.drafting import draft_worker, measure_chances
from cluster.profiling.measure import MeasureProgress
from cluster.profiling.sample_prompts import MAX_TOKENS, sample_prompts
from cluster.profiling.specs import worker_specs
from workers.model.registry import BUNDLED
from workers.spec import EngineSpec, Role, WorkerSpec

FAKE = WorkerSpec(
    worker_id="mixed-0",
    role=Role.MIXED,
    model="fake",
    served_name="fake",
    dtype="float32",
    device="cpu",
    secret="s3cret",
    engine=EngineSpec(memory_bytes=1 << 18, block_size=4),
    fake=True,
    fake_step_s=0.0,
)
has_demo = pytest.mark.skipif(
    not (BUNDLED / "demo" / "model.safetensors").is_file(), reason="the demo model is not there"
)


class Told:
    """What a display would show."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int]] = []
        self.num_parts = 0
        self.progress = MeasureProgress(
            phase=lambda name, parts: self.phases.append((name, parts)), advance=lambda: self._advance()
        )

    def _advance(self) -> None:
        self.num_parts += 1


def test_a_model_whose_next_token_is_another_after_each_is_never_right() -> None:
    """As the fake's is: its tokens hang on where the prompt ended."""
    told, prompts = Told(), [[1, 2, 3], list(range(5, 40))]
    chances = measure_chances(
        [FAKE], replace(FAKE, worker_id="draft-0"), prompts, depth=3, quick=True, progress=told.progress
    )
    assert chances.at(0) < 0.1
    assert told.phases == [("drafts", 4)]
    assert told.num_parts == 4


@has_demo
def test_prompts_are_in_a_chat_template_where_there_is_one_and_short() -> None:
    prompts = sample_prompts(BUNDLED / "demo")
    assert len(prompts) == 8
    assert all(0 < len(prompt) <= MAX_TOKENS for prompt in prompts)


@pytest.mark.slow
@has_demo
def test_demo_draft_is_right_more_often_than_not_and_less_so_than_demo_itself(tmp_path: Path) -> None:
    text = "model: demo\ndtype: float32\npools: {prefill: {workers: 0}, decode: {workers: 0}, mixed: {workers: 1}"
    config = with_draft(loads(text + ", draft: {workers: 0, model: demo-draft}}"))
    target = worker_specs(config)
    draft = draft_worker(config, target[0])
    assert draft is not None
    prompts = sample_prompts(BUNDLED / "demo")
    found = [
        measure_chances(target, one, prompts, depth=4, quick=True, progress=Told().progress)
        for one in (draft, replace(draft, model=target[0].model))
    ]
    assert 0.2 < found[0].at(0) < 0.95
    assert found[1].by_place == pytest.approx((1.0,) * 4, abs=0.02)
