"""The fake model with a state beside its blocks: a hash over all tokens, checked before every chunk and every sample.

So a slot that was given to two, left stale, copied from the wrong place or not handed over fails the step.
"""

import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from workers.model.contract import Batch, PayloadSpec, Sampled, Unit
from workers.model.drafts import num_accepted
from workers.model.fake import FakeRunner
from workers.spec import WorkerSpec

NBYTES = 8
NOTHING = b"\xff" * NBYTES  # of a slot that nobody has written


def after(state: bytes, token_ids: Sequence[int]) -> bytes:
    """The state when `token_ids` have followed; b"" before the first."""
    for token_id in token_ids:
        state = blake2b(state + struct.pack("<I", token_id), digest_size=NBYTES).digest()
    return state


class StatefulFakeRunner(FakeRunner):
    """Slots for `max_sequences` and two more; the cache keeps states every two blocks."""

    def __init__(self, spec: WorkerSpec, *, num_extra: int = 2, spacing: int | None = None) -> None:
        super().__init__(spec)
        self.num_states = spec.engine.max_sequences + num_extra
        self.state_spacing = (spacing or 2 * spec.engine.block_size) if spec.engine.prefix_cache else None
        self.states = [NOTHING] * self.num_states
        self.num_state_copies = 0
        self._give_store_states()

    def run(self, batch: Batch, on_layer: Callable[[int], None] | None = None) -> list[list[Sampled]]:
        slots = [chunk.state_id for chunk in batch.chunks]
        assert None not in slots, f"a chunk without a slot: {slots}"
        assert len(set(slots)) == len(slots), f"two chunks share a slot: {slots}"
        tokens_of = {row.chunk: [*row.prompt_token_ids, *row.output_token_ids] for row in batch.samples}
        for index, chunk in enumerate(batch.chunks):
            assert chunk.state_id is not None
            before = self.states[chunk.state_id] if chunk.start else b""
            known = chunk.token_ids[: len(chunk.token_ids) - chunk.num_drafts]
            self.states[chunk.state_id] = after(before, known)
            if index in tokens_of:
                wanted = after(b"", tokens_of[index])
                assert self.states[chunk.state_id] == wanted, f"chunk {index} from {chunk.start} on: a wrong state"
        found = super().run(batch, on_layer)
        for slot, num_tokens in num_accepted(batch, found).items():
            drafts = next(chunk.token_ids[1:num_tokens] for chunk in batch.chunks if chunk.state_id == slot)
            self.states[slot] = after(self.states[slot], drafts)
        return found

    def copy_states(self, pairs: Sequence[tuple[int, int]]) -> None:
        self.num_state_copies += len(pairs)
        for source, target in pairs:
            assert self.states[source] != NOTHING, f"slot {source} was copied before it was written"
            self.states[target] = self.states[source]

    def _give_store_states(self) -> None:
        """The state is a payload of the last layer but one, which has no tokens beside it in real models."""
        store: Any = self.store
        index = len(store.payloads)
        spec = PayloadSpec(layer=2, unit=Unit.STATE, unit_nbytes=NBYTES, layout="fake/state")
        read, write = store.read, store.write

        def read_state(at: int, ids: Sequence[int], start: int, end: int, out: Any = None) -> Any:
            if at != index:
                return read(at, ids, start, end, out)
            assert (start, end, len(ids)) == (0, 1, 1)
            if out is None:
                return self.states[ids[0]]
            out[:] = self.states[ids[0]]
            return out

        def write_state(at: int, ids: Sequence[int], start: int, end: int, payload: Any) -> None:
            if at != index:
                write(at, ids, start, end, payload)
                return
            assert (start, end, len(ids)) == (0, 1, 1)
            self.states[ids[0]] = bytes(payload)

        store.read, store.write = read_state, write_state
        store.payloads = (*store.payloads, spec)
