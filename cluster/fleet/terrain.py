"""The nodes of the Ray cluster as a controller knows them: which may have workers, their cores, and why others may not.

Each node is asked once, when it is first seen; whether it can be reached, whenever a worker seeks a place.
"""

import asyncio
import logging
import time
from collections.abc import Sequence

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.fleet import nodes
from cluster.fleet.nodes import Node
from cluster.fleet.probe import PACKAGES, Asked, NodeFacts, facts_of, question, refusal

ASK_TIMEOUT_S = 10.0
FRESH_S = 0.2  # workers that seek places at once share one look

logger = logging.getLogger(__name__)


class Terrain:
    """For one event loop."""

    def __init__(self) -> None:
        self.usable: list[Node] = []  # as of the last `learn`: they answer, and are not refused
        self.cores: dict[str, tuple[int, ...]] = {}  # node id -> its cores
        self.capped: set[str] = set()  # node ids where they are a number, and no certain ones
        self.refused: dict[str, tuple[Node, str]] = {}  # node id of one that answers -> why no worker may start there
        self._asked: Asked | None = None
        self._facts: dict[str, NodeFacts] = {}  # by node id
        self._looked_s = float("-inf")
        self._looking = asyncio.Lock()

    async def learn(self, asked: Asked) -> None:
        """Looks at the nodes of now.

        Args:
            asked: What workers need of a node; where it changes, all nodes are asked again.
        """
        async with self._looking:
            if asked != self._asked:
                self._asked, self._facts = asked, {}
            elif time.monotonic() - self._looked_s < FRESH_S:
                return
            await self._look(asked)
            self._looked_s = time.monotonic()

    def why_not(self, node_id: str) -> str:
        """Why a node cannot be used that is not among `usable`, by its address."""
        if node_id in self.refused:
            node, why = self.refused[node_id]
            return f"node {node.address} has it and is refused: {why}"
        known = next((node.address for node in nodes.alive() if node.node_id == node_id), node_id[:8])
        return f"node {known} has it and does not answer"

    async def _look(self, asked: Asked) -> None:
        there = await nodes.reachable(nodes.alive())
        await asyncio.gather(*(self._ask(node, asked) for node in there if node.node_id not in self._facts))
        own = self._facts.get(ray.get_runtime_context().get_node_id())
        whys = {node.node_id: self._refusal(node, own, asked) for node in there}
        before, self.refused = (
            self.refused,
            {node.node_id: (node, why) for node in there if (why := whys[node.node_id])},
        )
        self.usable = [node for node in there if not whys[node.node_id]]
        for node, why in self.refused.values():
            if before.get(node.node_id, (node, ""))[1] != why:
                logger.warning("node is refused address=%s why=%s", node.address, why)

    def _refusal(self, node: Node, own: NodeFacts | None, asked: Asked) -> str:
        facts = self._facts.get(node.node_id)
        if facts is None or own is None:  # it did not tell: a worker that starts there will
            return ""
        needs_cuda = asked.cuda and node.num_gpus > 0  # where Ray counts none, no worker goes anyway
        return refusal(facts, own, Asked(paths=asked.paths, torch=asked.torch, cuda=needs_cuda))

    async def _ask(self, node: Node, asked: Asked) -> None:
        packages: Sequence[str] = tuple(PACKAGES.values())
        if node.node_id == ray.get_runtime_context().get_node_id():
            self._take(node, facts_of(await asyncio.to_thread(question(), packages, asked.paths)))
            return
        ask = ray.remote(question()).options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        )
        try:
            reference = ask.remote(packages, asked.paths)
            answer = await asyncio.wait_for(asyncio.wrap_future(reference.future()), ASK_TIMEOUT_S)
        except (RayError, TimeoutError) as error:
            logger.warning("node did not tell its cores and versions address=%s error=%s", node.address, error)
            return
        self._take(node, facts_of(answer))

    def _take(self, node: Node, facts: NodeFacts) -> None:
        self._facts[node.node_id] = facts
        self.cores[node.node_id] = facts.cores
        if facts.is_capped:
            self.capped.add(node.node_id)
