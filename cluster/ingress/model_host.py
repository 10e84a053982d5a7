"""Makes what serves one model in an ingress replica, and ends it: its tokenizer, formats and defaults, and a dispatcher
with streams to its workers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from cluster.contracts.served_model import ServedModel
from cluster.contracts.slo import slo_of
from cluster.ingress.chat.model_formats import ModelFormats
from cluster.ingress.contract import AdapterLoading
from cluster.ingress.demand_teller import DemandTeller, Send
from cluster.ingress.generation_defaults import generation_defaults
from cluster.ingress.metrics import Metrics
from cluster.ingress.service import Service
from cluster.ingress.structured.compiler import GrammarCompiler
from cluster.ingress.tokenizer import Tokenizer
from cluster.ingress.tracing.ring import Ring
from cluster.models.find import find_model
from cluster.router.dispatcher import Dispatcher
from cluster.router.workers import WorkerEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """A model that this replica serves, or finishes answers of."""

    row: ServedModel
    service: Service
    dispatcher: Dispatcher
    teller: DemandTeller

    async def close(self) -> None:
        """What still runs fails."""
        await self.teller.close()
        self.service.close()
        await self.dispatcher.close()


FetchWorkers = Callable[[], Awaitable[Sequence[WorkerEntry]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Controllers:
    """How a replica asks the controller of a name; for workers of a model."""

    workers: Callable[[str, str], FetchWorkers]
    adapters: Callable[[str], AdapterLoading]
    demand: Callable[[str], Send]


class ModelHost:
    """For one event loop.

    Args:
        metrics, grammars, ring: Of all models.
    """

    def __init__(
        self,
        *,
        ingress_id: str,
        secret: str,
        controllers: Controllers,
        metrics: Metrics,
        grammars: GrammarCompiler,
        ring: Ring,
    ) -> None:
        self._ingress_id = ingress_id
        self._numbers = count()
        self._secret = secret
        self._controllers = controllers
        self._metrics = metrics
        self._grammars = grammars
        self._ring = ring

    async def open(self, row: ServedModel) -> Hosted:
        """With streams to workers that open in the background. Raises: ConfigError: a file of the model is wrong."""
        config = row.config
        folder, tokenizer, formats = await asyncio.to_thread(_read, row)
        # Two may ask the same workers for a while, and a worker has one stream for each id.
        ingress_id = f"{self._ingress_id}.{next(self._numbers)}"
        dispatcher = Dispatcher(
            ingress_id=ingress_id,
            secret=self._secret,
            config=config.router,
            health=config.health,
            fetch_workers=self._controllers.workers(row.controller, row.workers_model),
            model=row.workers_model,
        )
        service = Service(
            dispatcher=dispatcher,
            tokenizer=tokenizer,
            model=row.served_name,
            aliases=(row.alias,) if row.alias else (),
            router=config.router,
            defaults=generation_defaults(folder, config.generation_defaults),
            formats=formats,
            metrics=self._metrics,
            grammars=self._grammars,
            ring=self._ring,
            slo=slo_of(config.slo),
            adapters=self._controllers.adapters(row.controller) if config.adapters_dynamic.folders else None,
        )
        await dispatcher.start()
        teller = DemandTeller(service, ingress_id, self._controllers.demand(row.controller))
        teller.start()
        return Hosted(row=row, service=service, dispatcher=dispatcher, teller=teller)


def check_files(row: ServedModel) -> None:
    """Raises: ConfigError: what a replica would meet on this node."""
    folder, _, _ = _read(row)
    generation_defaults(folder, row.config.generation_defaults)


def _read(row: ServedModel) -> tuple[str, Tokenizer, ModelFormats]:
    """Blocks. Another node than the head has no such folder, and finds the model by its name."""
    config = row.config
    folder = row.model_path if Path(row.model_path).is_dir() else str(find_model(config.model))
    tokenizer = Tokenizer(folder, allow_special_tokens=config.allow_special_tokens)
    return folder, tokenizer, ModelFormats(tokenizer, tools=config.tools.parser, reasoning=config.reasoning.parser)
