"""One draft worker in its process: follows what others decode, and guesses ahead of them.

It loads, leads its gang, is watched and ends as every worker does; it has another engine, and draft links instead of
links that move KV.
"""

import time
from typing import TYPE_CHECKING

import grpc.aio

from baton.errors import ConfigError
from workers.actor import WorkerActor

if TYPE_CHECKING:
    from workers.model.contract import ModelRunner
    from workers.service import WorkerService
    from workers.speculative.draft_engine import DraftEngine


class DraftActor(WorkerActor):
    """As `WorkerActor`."""

    async def _serve(self, runner: "ModelRunner", server: grpc.aio.Server) -> "tuple[DraftEngine, WorkerService]":
        from baton.v1 import draft_pb2_grpc, worker_pb2_grpc
        from workers.service import WorkerService
        from workers.speculative.draft_engine import DraftEngine
        from workers.speculative.draft_service import DraftingService

        if runner.num_states:
            raise ConfigError(
                f"pools.draft.model: {self.spec.model_name or self.spec.model} keeps a state that a wrong guess cannot "
                "be taken out of; give a model without linear attention"
            )
        drafting = DraftingService(spec=self.spec, incarnation=self.incarnation)
        engine = DraftEngine(
            runner=runner,
            spec=self.spec,
            emit=lambda report: service.on_step(report),
            tell=drafting.tell,
            clock=time.monotonic,
        )
        drafting.serve(engine)
        service = WorkerService(engine=engine, spec=self.spec, incarnation=self.incarnation, fail=self._end)
        worker_pb2_grpc.add_WorkerServicer_to_server(service, server)
        draft_pb2_grpc.add_DraftingServicer_to_server(drafting, server)
        if self._gang is not None:
            self._gang.on_message(lambda rank, message: None)  # where the others would take KV: nobody sends any
        return engine, service
