"""Which top fields a body of the agents' APIs may have, checked by name before their values are."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.ingress.fields import advice, shorten, shown_name
from cluster.ingress.reading import refusal


@dataclass(frozen=True, slots=True)
class Refused:
    """A field of the API that asks for what this server does not do.

    Attributes:
        advice: What to do instead, after "this server ...".
        off: The values that ask for nothing; null always is one.
    """

    advice: str
    off: tuple[Any, ...] = ()

    def allows(self, value: Any) -> bool:
        return value is None or any(type(value) is type(off) and value == off for off in self.off)


def check_fields(
    body: Mapping[str, Any], known: Collection[str], harmless: Collection[str], refused: Mapping[str, Refused]
) -> dict[str, Any]:
    """The body's known fields that have a value.

    Args:
        harmless: Accepted; they change no answer.
    Raises: InvalidRequestError: a field is unknown, or asks for what is refused.
    """
    kept = {}
    for name, value in body.items():
        if name in known:
            if value is not None:
                kept[name] = value
        elif name in refused:
            if not refused[name].allows(value):
                raise refusal(name, f"{name} is {shorten(value)}; this server {refused[name].advice}")
        elif name not in harmless:
            hint = advice(name, [*known, *harmless])
            raise refusal(shown_name(name), f"{shorten(name)} is not a field of this request; {hint}")
    return kept
