"""The ways in which a gang's ranks divide work, and who is beside this rank in each: the model, and prompts.

A rank computes sums with those that hold other parts of the model and have the same piece of a prompt; it gathers
keys, values and states from those that hold the same part and have other pieces. The ranks of a draft worker share out
layers instead, all of them.
"""

from collections.abc import Callable
from typing import Any

from workers.model.places import Degrees
from workers.model.runner import TorchRunner
from workers.parallel.collectives import GroupRanks
from workers.parallel.gang import Gang
from workers.parallel.gathering import SequenceRanks
from workers.parallel.sequence_runner import SequenceRunner
from workers.parallel.shared_ranks import SharedRanks, share_exchange, share_memory
from workers.spec import WorkerSpec
from workers.speculative.layer_parallel import LayerParallelRunner, check_gang

AHEAD_BYTES = 8 << 20  # that are told and not read yet: two layers' keys and values of some 1,000 tokens


class Axes:
    """Every rank of the gang makes it at once.

    Raises:
        ConfigError: No gang divides work so.
        RuntimeError: A rank is gone.
    """

    def __init__(self, spec: WorkerSpec, gang: Gang) -> None:
        check_gang(spec.gang, spec.role)
        self._spec = spec
        self._tensor = _tensor_ranks(spec, gang) if spec.gang.tensor_parallel > 1 else None
        self._sequence = _sequence_ranks(spec, gang) if spec.gang.sequence_parallel > 1 else None
        self._layer = _joined(gang.group, gang, gang.rank, gang.size, spec) if spec.gang.layer_parallel > 1 else None

    def make_runner(self) -> TorchRunner:
        """Raises: what the loader raises."""
        if self._layer is not None:
            return LayerParallelRunner(self._spec, ranks=self._layer)
        if self._sequence is None:
            return TorchRunner(self._spec, ranks=self._tensor)
        return SequenceRunner(self._spec, self._sequence, ranks=self._tensor)

    def progress(self) -> Callable[[], int]:
        """How often this rank has begun to wait for others since this was called; every rank calls it once it has
        loaded. What is counted before depends on how they are joined."""
        before = self._num_begun()
        return lambda: self._num_begun() - before

    def patience_s(self) -> float:
        """How much longer than ranks that wait for each other in every layer others may take from one collective to
        the next. A rank that waits for none after it is layers ahead of them, and they need for a layer what it did,
        on a full machine twice that.
        """
        return 2 * self._sequence.pace_s if self._sequence is not None else 0.0

    def _num_begun(self) -> int:
        axes = (self._tensor, self._sequence, self._layer)
        return sum(axis.num_begun for axis in axes if axis is not None)


def _tensor_ranks(spec: WorkerSpec, gang: Gang) -> GroupRanks | SharedRanks:
    degrees = _degrees(spec)
    rank, size = degrees.place_of(gang.rank)
    piece = degrees.turn_of(gang.rank).number
    made = gang.group if size == gang.size else gang.subgroup(f"piece {piece}", rank, size)
    return _joined(made, gang, rank, size, spec)


def _joined(made: Any, gang: Gang, rank: int, size: int, spec: WorkerSpec) -> GroupRanks | SharedRanks:
    """The fastest way for the ranks of the process group `made` to add up."""
    group = GroupRanks(made, rank=rank, size=size)
    shared = share_memory(group) if spec.device == "cpu" else None
    if shared is None:
        return group
    gang.on_end(shared.abort)
    return shared


def _sequence_ranks(spec: WorkerSpec, gang: Gang) -> SequenceRanks:
    degrees = _degrees(spec)
    rank, size = degrees.turn_of(gang.rank)
    part = degrees.place_of(gang.rank).rank
    made = gang.group if size == gang.size else gang.subgroup(f"part {part}", rank, size)
    exchange = share_exchange(GroupRanks(made, rank=rank, size=size), AHEAD_BYTES) if spec.device == "cpu" else None
    if exchange is not None:
        gang.on_end(exchange.abort)
    return SequenceRanks(made, rank=rank, size=size, exchange=exchange)


def _degrees(spec: WorkerSpec) -> Degrees:
    return Degrees(spec.gang.tensor_parallel, spec.gang.sequence_parallel)
