"""Which key a request carries. What a client sent is neither kept nor shown, whole or in part."""

import datetime
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Iterable

from baton.errors import UnauthenticatedError
from cluster.config.api_key import APIKey

_SCHEME = "bearer "
_MAX_LENGTH = 1024  # of a header that may hold a key


class KeyRing:
    """Immutable; a changed keys file makes another one.

    The hash of what came is looked up under a second hash that nobody outside can foresee, and then compared in
    constant time, so that neither step's duration tells how close a wrong key is.
    """

    def __init__(self, keys: Iterable[APIKey], clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._blind = secrets.token_bytes(32)
        self._keys = {self._place(key.sha256.encode()): key for key in keys}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, authorization: str | None) -> APIKey:
        """
        Args:
            authorization: The header as it came.
        Raises:
            UnauthenticatedError: None, no bearer's, unknown, or expired.
        """
        if not authorization:
            raise UnauthenticatedError("no API key; send the header `Authorization: Bearer KEY`")
        if authorization[: len(_SCHEME)].lower() != _SCHEME or len(authorization) > _MAX_LENGTH:
            raise UnauthenticatedError("the header Authorization has no API key; send `Authorization: Bearer KEY`")
        digest = hashlib.sha256(authorization[len(_SCHEME) :].strip().encode("utf-8", "replace")).hexdigest().encode()
        key = self._keys.get(self._place(digest))
        if key is None or not hmac.compare_digest(key.sha256.encode(), digest):
            raise UnauthenticatedError("the API key is not known here; ask the operator of this server for one")
        if key.expires_s <= self._clock():
            raise UnauthenticatedError(f"the API key {key.name} has expired ({key.expires}); ask for a new one")
        return key

    def expired(self) -> list[APIKey]:
        now_s = self._clock()
        return [key for key in self._keys.values() if key.expires_s <= now_s]

    def _place(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._blind, digest_size=16).digest()


def days_left(key: APIKey, now_s: float) -> str:
    """For a table: `never`, `expired`, or the day on which it ends."""
    if not key.expires:
        return "never"
    if key.expires_s <= now_s:
        return "expired"
    return datetime.datetime.fromtimestamp(key.expires_s, datetime.UTC).date().isoformat()
