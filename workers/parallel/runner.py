"""A gang as the engine sees it: one runner, whose steps every rank computes together.

The leader's engine has a `GangRunner`; beside it each follower is in `follow`. The leader samples; what the others need
of it, the tokens, is in the next step that they are told.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from baton.errors import BatonError, ConfigError, InternalError
from workers.adapters.adapter import AdapterSpec
from workers.model.contract import Batch, Begun, KVStore, Launched, ModelRunner, Sampled, Share
from workers.model.drafts import num_accepted
from workers.parallel.gang import Gang
from workers.parallel.steps import Compute, Copied, Copy, Load, Settle, Step, Unload, decode, encode

logger = logging.getLogger(__name__)
OnLayer = Callable[[int], None]
T = TypeVar("T")


class Notes(Protocol):
    """What travels with a step for others than the runners: who hands over what of it. On the leader."""

    def note(self, on_layer: OnLayer | None) -> bytes:
        """Of a step that `on_layer` is called in."""
        ...


class NoteReader(Protocol):
    """Its counterpart on a follower."""

    def on_layer(self, note: bytes) -> OnLayer | None:
        """What to call after each layer of that step."""
        ...

    def step_done(self) -> None:
        """One more of the leader's steps is done here, with or without a note."""
        ...


class GangRunner:
    """Implements `workers.model.contract.ModelRunner` on rank 0. Not thread-safe.

    Where its runner runs ahead so does the gang: tokens that the leader drew go from device to device.

    Args:
        runner: This rank's share.
        fail: Ends this rank's process. Called when a step fails here: where the others are in it is not known then.
    """

    def __init__(
        self, runner: ModelRunner, gang: Gang, *, fail: Callable[[BatonError], None], notes: Notes | None = None
    ) -> None:
        self._runner = runner
        self._gang = gang
        self._fail = fail
        self.notes = notes  # may be given later, before the first step
        self.num_steps = 0  # that the other ranks were told
        self.num_blocks, self.num_states, self.state_spacing = (
            runner.num_blocks,
            runner.num_states,
            runner.state_spacing,
        )
        self.runs_ahead = runner.runs_ahead
        self.vocab_size = runner.vocab_size
        self.max_model_len = runner.max_model_len
        self.eos_token_ids = runner.eos_token_ids
        self.fingerprint = runner.fingerprint
        self.attention_name: str = getattr(runner, "attention_name", "")
        self.kv_shares = runner.kv_shares
        self.state_nbytes = runner.state_nbytes

    @property
    def store(self) -> KVStore:
        """Of this rank."""
        return self._runner.store

    def run(self, batch: Batch, on_layer: OnLayer | None = None) -> list[list[Sampled]]:
        note = self.notes.note(on_layer) if self.notes is not None else b""
        step = Compute(chunks=batch.chunks, rows=batch.rows, note=note)
        found = self._together(step, lambda: self._runner.run(batch, on_layer))
        self._settle(batch, found)
        return found

    def launch(self, batch: Batch, on_layer: OnLayer | None = None) -> Launched:
        note = self.notes.note(on_layer) if self.notes is not None else b""
        step = Compute(chunks=batch.chunks, rows=batch.rows, note=note, is_ahead=True)
        return GangLaunched(self._together(step, lambda: self._runner.launch(batch, on_layer)), batch, self)

    def landed(self, launched: Launched, batch: Batch) -> list[list[Sampled]]:
        """What a launched step gives; one that fails ends this rank."""
        found = self._or_end(launched.result)
        self._settle(batch, found)
        return found

    def _settle(self, batch: Batch, found: list[list[Sampled]]) -> None:
        counts = num_accepted(batch, found) if self.num_states else {}
        if counts:
            self._together(Settle(num_tokens=counts), lambda: None)  # this rank's runner has done so itself

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            self._together(Copy(pairs=pairs), lambda: self._runner.copy_blocks(pairs))

    def copy_tokens(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            self._together(Copy(pairs=pairs, what=Copied.TOKENS), lambda: self._runner.copy_tokens(pairs))

    def copy_states(self, pairs: Sequence[tuple[int, int]]) -> None:
        if pairs:
            self._together(Copy(pairs=pairs, what=Copied.STATES), lambda: self._runner.copy_states(pairs))

    def load_adapter(self, adapter_id: int, adapter: AdapterSpec) -> None:
        """On every rank, or on none. Raises: ConfigError: what any of them raises."""
        self._runner.load_adapter(adapter_id, adapter)  # what is wrong with it is mostly seen here
        answers = self._together(Load(adapter_id=adapter_id, adapter=adapter), self._gang.step_answers)
        failures = [f"rank {rank}: {text.decode()}" for rank, text in enumerate(answers, start=1) if text]
        if failures:
            self.unload_adapter(adapter_id)
            raise ConfigError(failures[0])

    def unload_adapter(self, adapter_id: int) -> None:
        self._together(Unload(adapter_id=adapter_id), lambda: self._runner.unload_adapter(adapter_id))

    def warm_up(self) -> None:
        """Nothing: each rank warms its own runner up before the gang takes steps."""

    def _together(self, step: Step, mine: Callable[[], T]) -> T:
        def told() -> T:
            self.num_steps += 1
            self._gang.send_step(encode(step, self.store.block_size))
            return mine()

        return self._or_end(told)

    def _or_end(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except Exception as error:
            logger.exception("a step of the gang failed")
            self._fail(error if isinstance(error, BatonError) else InternalError(f"a step of the gang failed: {error}"))
            raise


class GangLaunched:
    """Implements `workers.model.contract.Launched`."""

    def __init__(self, launched: Launched, batch: Batch, runner: GangRunner) -> None:
        self._launched, self._batch, self._runner = launched, batch, runner

    def result(self) -> list[list[Sampled]]:
        return self._runner.landed(self._launched, self._batch)


def follow(share: Share, gang: Gang, notes: NoteReader | None = None) -> None:
    """A follower's life: computes the leader's steps until the leader ends.

    Steps that are launched ahead are begun when they come, so that the device has the next one before one is done.

    Raises: what a step raises; the gang is of no use then.
    """
    begun: list[Begun] = []  # steps of which `notes` was not told that they are done, the oldest first

    def finish(most: int) -> None:
        """Until `most` are left."""
        while len(begun) > most:
            begun.pop(0).wait()
            if notes is not None:
                notes.step_done()

    copies = {
        Copied.BLOCKS: share.copy_blocks,
        Copied.STATES: share.copy_states,
        Copied.TOKENS: share.copy_tokens,
    }
    while True:
        if begun and not gang.has_step():
            finish(0)
        if (message := gang.wait_step()) is None:
            return
        step = decode(message)
        if isinstance(step, Compute) and step.is_ahead:
            begun.append(share.begin(step.chunks, step.rows, _on_layer(step, notes)))
            finish(1)
            continue
        finish(0)
        if isinstance(step, Copy):
            copies[step.what](step.pairs)
        elif isinstance(step, Settle):
            share.settle_states(step.num_tokens)
        elif isinstance(step, Load):
            gang.answer_step(_loaded(share, step).encode())
        elif isinstance(step, Unload):
            share.unload_adapter(step.adapter_id)
        else:
            share.compute(step.chunks, step.rows, _on_layer(step, notes))
        if notes is not None:
            notes.step_done()


def _on_layer(step: Compute, notes: NoteReader | None) -> OnLayer | None:
    return notes.on_layer(step.note) if notes is not None else None


def _loaded(share: Share, step: Load) -> str:
    """Why it was not; empty: it was."""
    try:
        share.load_adapter(step.adapter_id, step.adapter)
    except ConfigError as error:
        return error.message
    return ""
