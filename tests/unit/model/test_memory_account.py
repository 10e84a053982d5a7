"""A worker that runs out of memory at start says what holds it; and no step takes more than the one that was tried."""

from dataclasses import dataclass, field

import pytest
import torch

from baton.errors import ConfigError
from tests.models import tiny
from tests.unit.model.driver import make_spec
from workers.model.memory_account import MemoryAccount, Part, account_of, names_parts, peak_of
from workers.model.runner import TorchRunner
from workers.model.warm_steps import largest_batch
from workers.spec import EngineSpec

MIB = 1 << 20


@dataclass
class Device:
    held: int = 0

    def account(self) -> MemoryAccount:
        return MemoryAccount(lambda: self.held, lambda: 1000 * MIB - self.held)


@dataclass
class Worker:
    device: Device
    memory: MemoryAccount = field(init=False)

    def __post_init__(self) -> None:
        self.memory = self.device.account()

    @names_parts
    def start(self, kv_mib: int) -> int:
        self.device.held += 600 * MIB
        self.memory.begin(Part.KV)
        if kv_mib > 400:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 500.00 MiB. GPU 0 has more to say.")
        self.device.held += kv_mib * MIB
        self.memory.begin(Part.GRAPHS)
        self.device.held += 20 * MIB
        self.memory.begin(Part.WORKSPACE)
        self.memory.add(50 * MIB)
        return kv_mib


def test_what_comes_to_be_held_is_the_part_that_began_last() -> None:
    worker = Worker(Device())
    assert worker.start(300) == 300
    assert str(worker.memory) == "weights 600 MiB, KV and states 300 MiB, graphs 20 MiB, workspace 50 MiB"


def test_out_of_memory_names_each_part_and_what_to_lower() -> None:
    worker = Worker(Device(held=7 * MIB))
    with pytest.raises(ConfigError) as caught:
        worker.start(500)
    assert caught.value.message == (
        "engine.memory: the device is out of memory for KV and states: weights 607 MiB, KV and states 0 MiB, graphs 0 "
        "MiB, workspace 0 MiB, 393 MiB free (CUDA out of memory. Tried to allocate 500.00 MiB); lower engine.memory "
        "(KV and states), engine.max_batched_tokens or engine.max_sequences (workspace, graphs), or give a smaller "
        "model"
    )


def test_the_account_of_a_cpu_stays_empty() -> None:
    account = account_of("cpu")
    account.begin(Part.KV)
    with peak_of(torch.device("cpu")) as peak:
        pass
    assert peak.nbytes == 0
    assert not any(account.nbytes.values())


@pytest.mark.parametrize(
    ("engine", "max_model_len", "lengths"),
    [
        (EngineSpec(block_size=4, max_sequences=3, max_batched_tokens=20), 50, [1, 1, 18]),
        (EngineSpec(block_size=4, max_sequences=3, max_batched_tokens=20), 9, [1, 1, 9]),
        (EngineSpec(block_size=4, max_sequences=1, max_batched_tokens=200), 999, [80]),
        (EngineSpec(block_size=4, max_sequences=9, max_batched_tokens=9), 50, [1] * 9),
    ],
)
def test_the_largest_step_has_all_sequences_and_all_tokens(
    engine: EngineSpec, max_model_len: int, lengths: list[int]
) -> None:
    batch = largest_batch(engine, num_blocks=20, max_model_len=max_model_len, has_states=False)
    assert [len(chunk.token_ids) for chunk in batch.chunks] == lengths
    assert len(batch.samples) == len(lengths)
    assert max(max(chunk.block_ids) for chunk in batch.chunks) < 20


@pytest.mark.parametrize("family", ["llama", "qwen3_next"])
def test_the_largest_step_runs_and_leaves_blocks_empty(family: str) -> None:
    runner = TorchRunner(make_spec(tiny(family)), native=False)
    runner._run_largest()
    assert not any(layer.any() for layer in runner.store.layers)
