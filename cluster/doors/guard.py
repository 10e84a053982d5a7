"""Lets a request in by its API key, within the key's limits, and reads the keys again when their file changes.

A file that cannot be read, or is wrong, changes nothing: the keys of before stay, and the log and a metric say so until
it is right again. A key that is taken away ends no answer that has begun.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

from baton.errors import BatonError, ConfigError, InternalError, PermissionDeniedError
from cluster.config.api_key import APIKey
from cluster.config.schema import AuthConfig
from cluster.doors.accounts import Account, KeyMetrics
from cluster.doors.key_file import read_keys
from cluster.doors.key_ring import KeyRing
from cluster.doors.share import SETTLE_S, Draw, Share
from cluster.doors.watched import LOOK_S, Watched

REMIND_S = 60.0  # between words about a file that is wrong

logger = logging.getLogger(__name__)


def configured_keys(auth: AuthConfig) -> tuple[APIKey, ...]:
    """Of the config and of the file. Raises: ConfigError: one of them is wrong, or a name stands in both."""
    in_file = read_keys(auth.keys_file) if auth.keys_file else ()
    names = {key.name for key in auth.keys}
    for key in in_file:
        if key.name in names:
            raise ConfigError(
                f"auth.keys_file: {auth.keys_file} has a key {key.name}, and so has auth.keys; rename one"
            )
    return (*auth.keys, *in_file)


class Pass:
    """One request that was let in. Invariant: `leave` is called once."""

    __slots__ = ("_account", "_num_tokens", "_on_leave")

    def __init__(self, account: Account, on_leave: Callable[[Account], None]) -> None:
        self._account = account
        self._num_tokens = 0
        self._on_leave = on_leave

    @property
    def key_name(self) -> str:
        return self._account.key.name

    def may_use(self, name: str) -> bool:
        return self._account.key.may_use(name)

    def check_model(self, name: str) -> None:
        """Raises: PermissionDeniedError: the key is not for it."""
        key = self._account.key
        if not key.may_use(name):
            raise PermissionDeniedError(
                f"the API key {key.name} is not for model {name!r}; it may use {', '.join(key.models)}"
            )

    def check_every_model(self) -> None:
        """Raises: PermissionDeniedError: the key is for some models alone, so not to change which there are."""
        key = self._account.key
        if key.models:
            raise PermissionDeniedError(
                f"the API key {key.name} is for models {', '.join(key.models)} alone; use one without that limit"
            )

    def use_tokens(self, count: int) -> None:
        """Of the prompt, or just written."""
        self._num_tokens += count
        self._account.share.use_tokens(count)

    def leave(self) -> None:
        self._account.tokens.inc(self._num_tokens)
        self._on_leave(self._account)


class Guard:
    """Of one ingress replica, on its event loop.

    Args:
        model: What is served.
        adapters: Names of what is served beside it, at the moment.
        draw: Of the ledger that all replicas share.
        replica: This one's name there.
    """

    def __init__(
        self,
        auth: AuthConfig,
        *,
        model: str,
        draw: Draw,
        replica: str,
        num_replicas: int,
        metrics: KeyMetrics,
        adapters: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._auth = auth
        self._model = model
        self._adapters = adapters
        self._draw = draw
        self._replica = replica
        self._num_replicas = num_replicas
        self._metrics = metrics
        self._watched = Watched([auth.keys_file])
        self._accounts: dict[str, Account] = {}
        self._ring = KeyRing(())
        self._error: ConfigError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loops: tuple[asyncio.Task[None], ...] = ()
        self._take(configured_keys(auth))

    @property
    def has_public_metrics(self) -> bool:
        return self._auth.public_metrics

    def start(self) -> None:
        self._loops = (self._spawn(self._keep_reading()), self._spawn(self._keep_settling()))

    def check(self) -> None:
        """Raises: InternalError: a bug has ended what reads the file again, or what settles; Serve then replaces us."""
        for loop in self._loops:
            if loop.done() and not loop.cancelled():
                raise InternalError(f"the keys are not looked after any more: {loop.exception()!r}")

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def admit(self, authorization: str | None) -> Pass:
        """For work that counts: a prompt to read or an answer to write.

        Raises: UnauthenticatedError, PermissionDeniedError, RateLimitError.
        """
        account = self._account(authorization)
        try:
            if not account.key.may_use(self._model) and not any(map(account.key.may_use, self._adapters())):
                raise PermissionDeniedError(
                    f"the API key {account.key.name} is not for model {self._model!r}; it may use "
                    f"{', '.join(account.key.models)}"
                )
            await account.share.take()
        except BatonError as error:
            account.refused(error.code)
            raise
        account.requests.inc()
        return Pass(account, self._leave)

    @asynccontextmanager
    async def admitted(self, authorization: str | None) -> AsyncIterator[Pass]:
        admitted = await self.admit(authorization)
        try:
            yield admitted
        finally:
            admitted.leave()

    def identify(self, authorization: str | None) -> APIKey:
        """For what costs nothing: a list, a count. Raises: UnauthenticatedError."""
        return self._ring.find(authorization)

    async def reload(self) -> None:
        """What is in the file now, if it can be used. Read beside the event loop: thousands of keys take a second."""
        try:
            self._take(await asyncio.to_thread(configured_keys, self._auth))
        except ConfigError as error:
            self._error = error
            self._metrics.stale.set(1)
            logger.error("the keys of before stay, those of the changed file are NOT used: %s", error.message)
            return
        self._error = None
        self._metrics.stale.set(0)
        logger.info("keys read again num_keys=%s", len(self._ring))

    def _account(self, authorization: str | None) -> Account:
        return self._accounts[self._ring.find(authorization).name]

    def _take(self, keys: tuple[APIKey, ...]) -> None:
        """What a key of the same name has used stays used."""
        accounts = {}
        for key in keys:
            old = self._accounts.get(key.name)
            share = old.share if old else self._new_share(key)
            share.limits = key.limits
            accounts[key.name] = self._metrics.account(key, share)
        self._accounts, self._ring = accounts, KeyRing(keys)

    def _new_share(self, key: APIKey) -> Share:
        return Share(key, self._draw, replica=self._replica, num_replicas=self._num_replicas)

    def _leave(self, account: Account) -> None:
        if account.share.leave():
            self._spawn(account.share.pay())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep_reading(self) -> None:
        since_s = 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            since_s += LOOK_S
            if self._watched.changed() or (self._error is not None and since_s >= REMIND_S):
                since_s = 0.0
                await self.reload()

    async def _keep_settling(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_S)
            for account in list(self._accounts.values()):
                if not (account.share.limits.are_none or account.share.is_idle):
                    with contextlib.suppress(BatonError):
                        await account.share.settle()
