"""A simulated worker's load reports: production's, with what its cache has gained and lost since the last one."""

from baton.v1.worker_pb2 import WorkerState
from cluster.contracts.simulation import SimCluster, SimPool
from cluster.router.workers import WorkerKey
from workers.engine.cache_news import CacheNews
from workers.engine.load_report import WorkerStates, load_report
from workers.engine.serving import Serving
from workers.kv_transfer.link import Inbox, Outbox


class LoadReports:
    def __init__(
        self, *, key: WorkerKey, pool: SimPool, cluster: SimCluster, serving: Serving, outbox: Outbox, inbox: Inbox
    ) -> None:
        self._serving = serving
        self._outbox = outbox
        self._inbox = inbox
        self._cache_news = CacheNews()
        self._num_idle_blocks = pool.num_idle_blocks
        self._states = WorkerStates(
            worker_id=key.worker_id,
            incarnation=key.incarnation,
            fingerprint="",
            block_size=cluster.engine.block_size,
            num_blocks=pool.num_blocks + pool.num_idle_blocks,
            max_model_len=cluster.max_model_len,
            max_sequences=cluster.engine.max_sequences,
        )

    def next(self, now_s: float, *, is_idle: bool, num_in_flight: int) -> WorkerState:
        """Args:
        num_in_flight: Sequences that a pipeline's steps have taken out of the scheduler.
        """
        load = load_report(self._serving, self._outbox, self._inbox, is_idle=is_idle, num_in_flight=num_in_flight)
        state = self._states.of(load, now_s)
        state.num_free_blocks += self._num_idle_blocks
        self._cache_news.note(*self._serving.blocks.drain_cache_events())
        self._cache_news.fill(state)
        return state
