"""Origins of web pages, as the config names them."""

import re
from typing import Any

from baton.errors import ConfigError

ANY = "*"
# A host as browsers write it: lower case, international names in their ASCII form, IPv6 addresses in brackets.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def parse_origins(value: Any, dotted: str) -> tuple[str, ...]:
    """Raises: ConfigError: no list, "*" beside others, or an entry that no browser would send as an origin."""
    if not isinstance(value, list):
        raise ConfigError(
            f"{dotted}: {value!r} is no list; e.g. `{dotted}: [https://app.example.com]`, or ['*'] for all"
        )
    for origin in value:
        if origin != ANY:
            _check(origin, dotted)
    if ANY in value and len(value) > 1:
        raise ConfigError(f"{dotted}: '*' is every origin already; leave the others out, or the '*'")
    return tuple(value)


def _check(origin: Any, dotted: str) -> None:
    fix = "write scheme://host or scheme://host:port in lower case, without a path, e.g. https://app.example.com"
    if not isinstance(origin, str) or not _ORIGIN.fullmatch(origin):
        near = origin.rstrip("/").lower() if isinstance(origin, str) else ""
        hint = f"did you mean {near}?" if _ORIGIN.fullmatch(near) else fix
        raise ConfigError(f"{dotted}: {origin!r} is no origin as browsers send it; {hint}")
    scheme, _, rest = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if port and rest.endswith(f":{port}"):
        raise ConfigError(
            f"{dotted}: {origin!r} has its scheme's own port, which browsers leave out; leave out :{port}"
        )
