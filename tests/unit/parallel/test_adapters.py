"""Gangs with LoRA adapters: whatever their ranks share, tokens are those of PEFT's merged weights on one rank."""

from dataclasses import replace
from pathlib import Path

import pytest

from baton.errors import ConfigError
from tests.models import tiny
from tests.unit.adapters.asked import adapted_spec, check, submit_all
from tests.unit.engine.driver import Driver
from tests.unit.parallel.gangs import RankProcesses
from tests.unit.parallel.test_tensor import one_thread
from workers.adapters.adapter import AdapterSpec

__all__ = ["one_thread"]  # a fixture for all tests here


@pytest.mark.parametrize(
    ("family", "size"),
    [("llama", 2), ("phi3", 2), *(pytest.param(one, 4, marks=pytest.mark.slow) for one in ("llama", "qwen2", "olmo2"))],
)
def test_each_rank_adds_its_part(ranks: RankProcesses, family: str, size: int) -> None:
    """With four ranks and two KV heads each of these is on two of them."""
    base = tiny(family)
    with ranks.gang(adapted_spec(base), size) as led:
        driver = Driver([adapted_spec(base)], lambda _: led.runner)
        submit_all(driver)
        check(driver, base)


@pytest.mark.parametrize("family", ["llama", pytest.param("qwen3_next", marks=pytest.mark.slow)])
def test_pieces_of_one_prompt_are_read_with_its_adapter(ranks: RankProcesses, family: str) -> None:
    base = tiny(family)
    spec = adapted_spec(base, sequence_parallel_over_tokens=4)
    with ranks.gang(spec, 2, sequence=True) as led:
        driver = Driver([spec], lambda _: led.runner)
        submit_all(driver)
        check(driver, base)


def test_a_running_gang_loads_and_unloads_on_all_ranks_or_on_none(ranks: RankProcesses, tmp_path: Path) -> None:
    base = tiny("llama")
    spec = adapted_spec(base)
    with ranks.gang(replace(spec, adapters=()), 2) as led:
        driver = Driver([replace(spec, adapters=())], lambda _: led.runner)
        engine = driver.engines[0]
        loading = [engine.adapters.load(adapter) for adapter in spec.adapters]
        driver.step()
        assert [future.result(0) for future in loading] == [None, None]
        engine.spec = spec
        submit_all(driver)
        check(driver, base)
        wrong = AdapterSpec(name="three", folder=str(tmp_path), content_hash="")
        refused, removed = engine.adapters.load(wrong), engine.adapters.remove("one")
        driver.step()
        with pytest.raises(ConfigError, match=r"adapters\.three: .* has no adapter_config\.json"):
            refused.result(0)
        assert removed.result(0)
        assert [one.name for one in engine.load.adapters] == ["two"]
    assert led.said == [f"ended: {led.runner.num_blocks} blocks"]
