"""What is counted of each key: by its name, of which there are as many as the operator wrote down, and no more."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from cluster.config.api_key import APIKey
from cluster.doors.share import Share
from workers.telemetry.described import counter, gauge

MAX_NAMES = 200  # keys beyond them are counted together
OTHERS = "other"
REQUESTS = counter("baton_key_requests_total", "requests", "Let in, by the name of their API key", "key")
REFUSED = counter("baton_key_refused_total", "requests", "Refused, by key and error code", "key", "code")
TOKENS = counter("baton_key_tokens_total", "tokens", "Read and written, by key", "key")
STALE = gauge("baton_keys_stale", "1", "1: the keys file has changed and cannot be used; those of before hold")
DESCRIBED = (REQUESTS, REFUSED, TOKENS, STALE)


class Account:
    """A key in use."""

    __slots__ = ("_refused", "_shown", "key", "requests", "share", "tokens")

    def __init__(self, key: APIKey, share: Share, shown: str, metrics: "KeyMetrics") -> None:
        self.key = key
        self.share = share
        self.requests = metrics.requests.labels(shown)
        self.tokens = metrics.tokens.labels(shown)
        self._refused = metrics.refused
        self._shown = shown

    def refused(self, code: str) -> None:
        self._refused.labels(self._shown, code).inc()


class KeyMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(REQUESTS.name, REQUESTS.text, REQUESTS.labels, registry=registry)
        self.refused = Counter(REFUSED.name, REFUSED.text, REFUSED.labels, registry=registry)
        self.tokens = Counter(TOKENS.name, TOKENS.text, TOKENS.labels, registry=registry)
        self.stale = Gauge(STALE.name, STALE.text, registry=registry)
        self._names: set[str] = set()

    def account(self, key: APIKey, share: Share) -> Account:
        if key.name in self._names or len(self._names) < MAX_NAMES:
            self._names.add(key.name)
            return Account(key, share, key.name, self)
        return Account(key, share, OTHERS, self)
