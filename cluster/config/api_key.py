"""An API key as the server knows it: its hash, its name, and what it may do. The key itself is nowhere."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """None: no limit. Of all ingress replicas together, in any 60 seconds."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None  # of prompts and answers
    max_concurrent: int | None = None  # requests being answered

    @property
    def are_none(self) -> bool:
        return self == NO_LIMITS


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class APIKey:
    """
    Attributes:
        name: Of whom, for logs and metrics; no two keys have one.
        sha256: Of the key, 64 hex digits. A key is random, so its plain hash tells nothing of it.
        models: Names that it may ask for; empty: every one that is served.
        expires: When it ends, ISO 8601 with an offset; empty: never.
        expires_s: The same in seconds since 1970.
    """

    name: str
    sha256: str
    models: tuple[str, ...] = ()
    limits: KeyLimits = NO_LIMITS
    expires: str = ""
    expires_s: float = float("inf")

    def may_use(self, model: str) -> bool:
        return not self.models or model in self.models
