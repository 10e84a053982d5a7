"""What this ingress knows of every worker, and which of them may be chosen.

Also which of this ingress's requests depend on a worker, in the table or not any more.

Invariant: `pools` holds exactly the workers of the controller's table that are connected, have reported, and neither
drain nor are wedged. No I/O: rows come from the controller, reports from `cluster.router.session`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from baton.v1.worker_pb2 import DecodeRoute, DraftRoute, Measures, WorkerState
from cluster.router.load import Pools, WorkerLoad
from cluster.router.prefix_index import PrefixIndex
from cluster.router.workers import WorkerEntry, WorkerKey, WorkerView
from workers.engine.wire_roles import FROM_WIRE
from workers.spec import SERVING_ROLES, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    ok: bool
    reason: str = ""  # one line per fault, joined by "; "


@dataclass(slots=True, kw_only=True, eq=False)
class _Row:
    key: WorkerKey
    entry: WorkerEntry
    state: WorkerState | None = None
    measures: Measures | None = None  # the last ones that it told
    reported_s: float = 0.0
    load: WorkerLoad | None = None  # while connected and reported
    num_reports: int | None = 0  # on this stream; None: one is missing, and all until the next snapshot are useless

    @property
    def role(self) -> Role:
        """The worker's word, else the table's."""
        return self.entry.role if self.load is None else self.load.role


@dataclass(slots=True)
class _Outstanding:
    """What one worker writes, or will, for this ingress."""

    num_sequences: int = 0
    by_request: dict[str, int] = field(default_factory=dict)


class WorkerTable:
    """Times are seconds on the caller's clock."""

    def __init__(self, *, step_timeout_s: float) -> None:
        self.prefix = PrefixIndex()
        self.max_model_len = 0  # 0 until a worker that decodes has reported; as the next, the last known value
        self.max_request_tokens = 0
        self.adapters: Mapping[str, str] = {}  # that workers which decode have, name -> hash; as the last two
        self._step_timeout_s = step_timeout_s
        self._rows: dict[str, _Row] = {}
        self._entries: dict[WorkerKey, WorkerEntry] = {}
        self._outstanding: dict[WorkerKey, _Outstanding] = {}  # of workers with dependents
        self._pools: Pools | None = Pools()  # None: to be made anew
        self._drained: set[WorkerKey] = set()  # told to finish what they have, and known here or needed by requests

    @property
    def pools(self) -> Pools:
        if self._pools is None:
            self._pools = Pools.of([row.load for row in self._rows.values() if row.load and self._is_usable(row)])
        return self._pools

    def entries(self) -> Mapping[WorkerKey, WorkerEntry]:
        """Another one after `replace`; asked for several times a second, so not made anew each time."""
        return self._entries

    def key(self, worker_id: str) -> WorkerKey:
        return self._rows[worker_id].key

    def route(self, worker_id: str) -> DecodeRoute:
        """Where prefill hands over to this worker; with all ranks of a gang, which it has reported itself."""
        row = self._rows[worker_id]
        return DecodeRoute(
            worker_id=worker_id,
            incarnation=row.entry.incarnation,
            address=row.entry.address,
            rank_addresses=row.state.rank_addresses if row.state is not None else (),
        )

    def draft_route(self, worker_id: str) -> DraftRoute:
        """Where a decode worker finds this one, which drafts for it."""
        entry = self._rows[worker_id].entry
        return DraftRoute(worker_id=worker_id, incarnation=entry.incarnation, address=entry.address)

    def load(self, key: WorkerKey) -> WorkerLoad | None:
        row = self._rows.get(key.worker_id)
        return row.load if row is not None and row.key == key else None

    def views(self, now_s: float) -> list[WorkerView]:
        return [
            WorkerView(
                entry=row.entry,
                state=row.state,
                age_s=now_s - row.reported_s if row.state is not None else 0.0,
                up=row.load is not None,
                measures=row.measures,
            )
            for row in self._rows.values()
        ]

    def replace(self, entries: Sequence[WorkerEntry]) -> None:
        """Takes the controller's newest table. A worker of a new incarnation starts from nothing."""
        rows = {}
        for entry in entries:
            row = self._rows.get(entry.worker_id)
            if row is not None and row.entry.incarnation == entry.incarnation:
                row.entry = entry
            else:
                self.prefix.forget(entry.worker_id)
                row = _Row(key=WorkerKey(entry.worker_id, entry.incarnation), entry=entry)
            rows[entry.worker_id] = row
        for worker_id in self._rows.keys() - rows.keys():
            self.prefix.forget(worker_id)
        self._rows = rows
        self._entries = {row.key: row.entry for row in rows.values()}
        self._drained &= self._entries.keys() | self._outstanding.keys()
        self._drained |= {key for key, entry in self._entries.items() if entry.draining}
        self._pools = None

    def report(self, key: WorkerKey, state: WorkerState, *, now_s: float) -> bool:
        """Books a load report; True when the set of usable workers may have changed."""
        row = self._rows.get(key.worker_id)
        if row is None or row.key != key:
            return False
        before = None if row.load is None else (self._is_usable(row), row.load.role, row.load.adapters)
        self._book_cache(row, state)
        state.ClearField("added_block_hashes")
        state.ClearField("removed_block_hashes")
        row.state, row.reported_s = state, now_s
        if state.draining:  # it may have nothing left, and be gone, before the controller's table says so
            self._drained.add(key)
        if state.HasField("measures"):
            row.measures = state.measures
        if row.load is None:
            row.load = _load(row.entry, state)
        _book(row.load, state, now_s=now_s)
        self._book_outstanding(key)
        changed = before != (self._is_usable(row), row.load.role, row.load.adapters)
        if changed:
            self._pools = None
            self._measure_capacity()
        return changed

    def unchanged(self, key: WorkerKey, *, now_s: float) -> bool:
        """Books a sign of life: the last report still holds. False: it is not known here, as the row came after it."""
        row = self._rows.get(key.worker_id)
        if row is None or row.key != key:
            return True
        if row.load is None:
            return False
        row.reported_s = now_s
        row.load.reported(now_s)
        return True

    def was_draining(self, key: WorkerKey) -> bool:
        """Whether its end was meant."""
        return key in self._drained

    def lacks_cache(self, key: WorkerKey) -> bool:
        """A report is missing: its prefix cache is unknown until the next snapshot."""
        row = self._rows.get(key.worker_id)
        return row is not None and row.key == key and row.num_reports is None

    def disconnect(self, key: WorkerKey) -> None:
        """The stream is gone; the next one begins with the worker's whole prefix cache."""
        row = self._rows.get(key.worker_id)
        if row is not None and row.key == key:
            row.load, row.num_reports = None, 0
            self.prefix.forget(key.worker_id)
            self._pools = None

    def attach(self, key: WorkerKey, request_id: str, num_sequences: int) -> None:
        """The worker will write, or writes, so many sequences more of the request."""
        outstanding = self._outstanding.setdefault(key, _Outstanding())
        outstanding.by_request[request_id] = outstanding.by_request.get(request_id, 0) + num_sequences
        outstanding.num_sequences += num_sequences
        self._book_outstanding(key)

    def detach(self, key: WorkerKey, request_id: str) -> None:
        """The request depends on the worker no more."""
        outstanding = self._outstanding[key]
        outstanding.num_sequences -= outstanding.by_request.pop(request_id)
        if not outstanding.by_request:
            del self._outstanding[key]
        self._book_outstanding(key)

    def dependents(self, key: WorkerKey) -> list[str]:
        """Ids of requests, in the order in which they were attached."""
        outstanding = self._outstanding.get(key)
        return list(outstanding.by_request) if outstanding is not None else []

    def health(self) -> Health:
        """Not ok when nothing can decode, a pool that should have workers has none, or a worker is wedged.

        Draft workers do not count: answers are the same without them.
        """
        faults = []
        serving = {worker_id: row for worker_id, row in self._rows.items() if row.role in SERVING_ROLES}
        rows = [row for row in serving.values() if not row.entry.draining]
        expected = {row.role for row in rows}
        present = {load.role for load in self.pools.by_id.values()}
        if not self.pools.decode:
            faults.append(f"no worker can decode: none of {len(serving)} in the table is up")
        else:
            faults += [f"pool {role.value} is empty" for role in Role if role in expected - present]
        faults += [
            f"worker {worker_id} has work and has finished no step for {row.state.since_progress_s:.0f} s"
            for worker_id, row in serving.items()
            if row.state is not None and row.load is not None and self._is_wedged(row.state)
        ]
        return Health(ok=not faults, reason="; ".join(faults))

    def _book_cache(self, row: _Row, state: WorkerState) -> None:
        """Number 1 tells the whole cache, each later one what has changed since the one before."""
        worker_id, number = row.entry.worker_id, state.report_number
        if number == 1 or number - 1 != row.num_reports:
            self.prefix.forget(worker_id)
        if number != 1 and number - 1 != row.num_reports:
            row.num_reports = None
            return
        self.prefix.update(worker_id, added=state.added_block_hashes, removed=state.removed_block_hashes)
        row.num_reports = number

    def _book_outstanding(self, key: WorkerKey) -> None:
        load = self.load(key)
        if load is not None:
            outstanding = self._outstanding.get(key)
            load.num_outstanding = outstanding.num_sequences if outstanding is not None else 0

    def _is_wedged(self, state: WorkerState) -> bool:
        return state.since_progress_s > self._step_timeout_s

    def _is_usable(self, row: _Row) -> bool:
        if row.load is None or row.state is None or row.entry.draining:
            return False
        return not row.state.draining and not self._is_wedged(row.state)

    def _measure_capacity(self) -> None:
        decodes = self.pools.decode
        if decodes:
            self.max_model_len = max(load.max_model_len for load in decodes)
            self.max_request_tokens = max(load.max_request_tokens for load in decodes)
            self.adapters = {name: of for load in reversed(decodes) for name, of in load.adapters.items()}


def _load(entry: WorkerEntry, state: WorkerState) -> WorkerLoad:
    return WorkerLoad(
        worker_id=entry.worker_id,
        role=entry.role,
        family=f"{entry.family}/{state.fingerprint}/{state.block_size}",
        block_size=state.block_size,
        num_blocks=state.num_blocks,
        max_model_len=state.max_model_len,
        max_sequences=state.max_sequences,
        num_free_blocks=state.num_free_blocks,
    )


def _book(load: WorkerLoad, state: WorkerState, *, now_s: float) -> None:
    load.role = FROM_WIRE.get(state.role, load.role)  # the worker's word: a change of role is not in the table yet
    if state.adapters or load.adapters:
        load.adapters = {adapter.name: adapter.hash for adapter in state.adapters}
    load.num_free_blocks = state.num_free_blocks
    load.num_running = state.num_running
    load.num_waiting = state.num_waiting
    load.num_waiting_tokens = state.num_waiting_tokens
    load.prefill_tokens_per_s = state.prefill_tokens_per_s
    load.reported(now_s)
