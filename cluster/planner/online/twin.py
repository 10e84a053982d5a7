"""The simulated fleet that stands for the real one: what is known of it, in the setup that is asked about."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.contracts.latency import LatencyModel
from cluster.contracts.simulation import SimCluster, SimPool
from cluster.planner.online.setup import Setup
from workers.spec import Role

COARSE = 64  # tokens of a simulated block, where the fleet's are smaller: a simulation makes each of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """
    Attributes:
        base: With a pool for each role that workers may have; how many it has is not read, nor its latencies.
        num_ingresses: Each has limits of its own, simulated as one.
    """

    base: SimCluster
    num_ingresses: int = 1

    @property
    def block_size(self) -> int:
        """Of simulated blocks; states are kept at blocks' ends, so that theirs stay."""
        size = self.base.engine.block_size
        return size if any(pool.num_states for pool in self.base.pools) else size * max(COARSE // size, 1)

    @property
    def max_tokens(self) -> int:
        """Of one request, prompt and output."""
        held = [pool.num_blocks for pool in self.base.pools if pool.role.decodes]
        return min(self.base.max_model_len, max(held, default=0) * self.base.engine.block_size)

    def cluster(
        self, setup: Setup, latency: Mapping[Role, LatencyModel], *, extra_s: float, shares_prefixes: bool
    ) -> SimCluster:
        base, tuning, size = self.base, setup.tuning, self.block_size
        pools = tuple(self._pool(pool, setup, latency[pool.role]) for pool in base.pools if setup.count(pool.role))
        router = tuning.router(base.router)
        prefix_cache = base.engine.prefix_cache and shares_prefixes
        return replace(
            base,
            pools=pools,
            engine=replace(tuning.engine(base.engine), block_size=size, prefix_cache=prefix_cache),
            router=replace(
                router,
                max_running=router.max_running * self.num_ingresses,
                max_queue=router.max_queue * self.num_ingresses,
            ),
            ingress_s=base.ingress_s + extra_s / 2,
        )

    def _pool(self, pool: SimPool, setup: Setup, latency: LatencyModel) -> SimPool:
        num_blocks = max(pool.num_blocks * self.base.engine.block_size // self.block_size, 1)
        most, drafts = setup.tuning.max_draft_tokens, pool.drafts
        if drafts is not None and most is not None:
            drafts = replace(drafts, max_tokens=min(most, drafts.max_tokens))
        return replace(pool, num_workers=setup.count(pool.role), latency=latency, num_blocks=num_blocks, drafts=drafts)
