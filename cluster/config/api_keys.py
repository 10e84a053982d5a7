"""API keys as YAML has them, in `auth.keys` and in the keys file, and written back. Errors never show a key or hash."""

import datetime
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from baton.errors import ConfigError
from cluster.config.api_key import APIKey, KeyLimits

MAX_KEYS = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LIMITS = ("requests_per_minute", "tokens_per_minute", "max_concurrent")
_KNOWN = ("name", "sha256", "models", *_LIMITS, "expires")
_MAX_LIMIT = 1 << 40


def parse_keys(rows: Any, where: str) -> tuple[APIKey, ...]:
    """
    Args:
        rows: What YAML read.
        where: What errors call it: `auth.keys`, or a file and its key.
    Raises:
        ConfigError: It names the entry, the field and the fix.
    """
    if not isinstance(rows, list):
        raise ConfigError(f"{where}: is no list of keys; write one entry per key, or `[]` for none")
    if len(rows) > MAX_KEYS:
        raise ConfigError(f"{where}: has {len(rows)} keys; {MAX_KEYS} are the most")
    keys = tuple(_key(row, f"{where}[{number}]") for number, row in enumerate(rows))
    for field, noun in (("name", "name"), ("sha256", "hash")):
        seen: dict[str, int] = {}
        for number, key in enumerate(keys):
            first = seen.setdefault(getattr(key, field), number)
            if first != number:
                raise ConfigError(f"{where}[{number}].{field}: has the {noun} of {where}[{first}]; remove one of them")
    return keys


def plain_keys(keys: Sequence[APIKey]) -> list[dict[str, Any]]:
    """For YAML, with the fields that are set."""
    rows = []
    for key in keys:
        row: dict[str, Any] = {"name": key.name, "sha256": key.sha256}
        if key.models:
            row["models"] = list(key.models)
        row |= {name: limit for name in _LIMITS if (limit := getattr(key.limits, name)) is not None}
        if key.expires:
            row["expires"] = key.expires
        rows.append(row)
    return rows


def parse_expiry(value: Any, where: str) -> tuple[str, float]:
    """As text, and in seconds since 1970. Raises: ConfigError: it is no date."""
    try:
        moment = value if isinstance(value, datetime.date) else datetime.datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: is no date; e.g. 2030-01-31, or 2030-01-31T12:00:00+00:00") from None
    if not isinstance(moment, datetime.datetime):
        moment = datetime.datetime.combine(moment, datetime.time())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.isoformat(), moment.timestamp()


def _key(row: Any, where: str) -> APIKey:
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where}: is no entry of a key; e.g. {{name: alice, sha256: ...}} of `baton key create`")
    for field in row:
        if field not in _KNOWN:
            raise ConfigError(f"{where}.{_shown(str(field))}: unknown key; {_hint(str(field))}")
    ends = row.get("expires") not in (None, "")
    expires, expires_s = parse_expiry(row["expires"], f"{where}.expires") if ends else ("", float("inf"))
    return APIKey(
        name=check_name(row.get("name"), f"{where}.name"),
        sha256=_hash(row.get("sha256"), f"{where}.sha256"),
        models=_models(row.get("models", []), f"{where}.models"),
        limits=KeyLimits(**{name: check_limit(row.get(name), f"{where}.{name}") for name in _LIMITS}),
        expires=expires,
        expires_s=expires_s,
    )


def _shown(field: str) -> str:
    """A field's name; what may be a key or a hash that slipped there is not."""
    return field if re.fullmatch(r"[A-Za-z_]\w{0,31}", field) else "?"


def _hint(field: str) -> str:
    if field in ("key", "secret", "token", "api_key"):
        return "a key itself is never written down: `baton key create` makes one, and the entry with its hash"
    near = difflib.get_close_matches(field, _KNOWN, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(_KNOWN)}"


def check_name(value: Any, where: str) -> str:
    """Raises: ConfigError."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigError(f"{where}: is no name; give 1 to 64 letters, digits and . _ @ -, a letter or digit first")
    if value.startswith("bt-"):
        raise ConfigError(f"{where}: begins as a key does; give the name of whom it is for")
    return value


def _hash(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):  # not shown: it may be the key itself
        raise ConfigError(f"{where}: is no SHA-256 in 64 lower-case hex digits; `baton key create` writes it")
    return value


def _models(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise ConfigError(f"{where}: is no list of model names; e.g. [smollm2], or leave it out for every model")
    return tuple(value)


def check_limit(value: Any, where: str) -> int | None:
    """Raises: ConfigError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_LIMIT:
        raise ConfigError(f"{where}: {value!r} is no limit; give a whole number from 1, or leave it out for none")
    return value
