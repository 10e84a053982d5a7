"""What a pool asks of its nodes: Ray's custom resources, and selectors of node labels. Pure.

The syntax is Ray's own (its label selectors), checked here so that a config is refused before anything starts.
"""

import re
from collections.abc import Mapping
from typing import Any

from baton.errors import ConfigError

RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory")
LEAST = 0.0001  # of a resource: Ray counts in such steps
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_RESOURCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]*")
_KEY = re.compile(rf"(?:(?=[^/]{{1,253}}/){_PART}(?:\.{_PART})*/)?{_PART}")
_SELECTOR = re.compile(rf"(!?)(?:({_PART})|in\(({_PART}(?:, ?{_PART})*)\))")


def parse_resources(value: Any, dotted: str) -> dict[str, float]:
    """Raises: ConfigError: no map of names to amounts, a name of Ray's own, or an amount that Ray cannot count."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{dotted}: {value!r} is no map of Ray resources; e.g. `{dotted}: {{baton_decode: 1}}`")
    return {_resource_name(name, dotted): _amount(amount, f"{dotted}.{name}") for name, amount in value.items()}


def _resource_name(name: Any, dotted: str) -> str:
    if name in RAYS_OWN or str(name).startswith(("node:", "bundle")):
        raise ConfigError(
            f"{dotted}.{name}: is Ray's own, and Baton asks for what its workers need of it; leave it out, or give a "
            "custom resource, e.g. baton_decode"
        )
    if not isinstance(name, str) or not _RESOURCE.fullmatch(name):
        raise ConfigError(f"{dotted}: {name!r} is no name of a Ray resource; give letters, digits and _ . - : /")
    return name


def _amount(value: Any, dotted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not LEAST <= value <= 1e9:
        raise ConfigError(f"{dotted}: {value!r} is no amount; give a number from {LEAST} on, e.g. `{dotted}: 1`")
    return float(value)


def parse_labels(value: Any, dotted: str) -> dict[str, str]:
    """Raises: ConfigError: no map of label keys to selectors, or one of either that Ray would not take."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{dotted}: {value!r} is no map of node labels; e.g. `{dotted}: {{baton.dev/pool: decode}}`")
    for key, selector in value.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ConfigError(f"{dotted}: {key!r} is no label key; give name or prefix/name, e.g. baton.dev/pool")
        if not isinstance(selector, str) or not _SELECTOR.fullmatch(selector):
            raise ConfigError(
                f"{dotted}.{key}: {selector!r} selects no label value; give a value, !value, in(a, b) or !in(a, b), "
                "in quotes where YAML would read a number or a tag"
            )
    return dict(value)


def selects(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with `labels` is one of those that `wanted` asks for."""
    return all(_selects(selector, labels.get(key)) for key, selector in wanted.items())


def _selects(selector: str, value: str | None) -> bool:
    found = _SELECTOR.fullmatch(selector)
    assert found is not None, "checked when the config was read"
    negated, one, several = found.groups()
    values = [one] if one is not None else [part.strip() for part in several.split(",")]
    return (value in values) is not bool(negated)
