"""A request's body by tables of its fields' names, for bodies that are no class: what the tables name is described."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.ingress.agent_fields import Refused
from cluster.ingress.openapi.requests import HARMLESS_FIELD, Schema, nullable, row_schema
from workers.model.sampling_params import ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyShape:
    """
    Attributes:
        known: Names of the fields; those of `ROWS` are described by them, others by `own`.
        harmless: Accepted; they change no answer.
    """

    name: str
    known: Collection[str]
    own: Mapping[str, Schema]
    required: tuple[str, ...] = ()
    harmless: Collection[str] = ()
    refused: Mapping[str, Refused] = field(default_factory=dict)

    def schema(self) -> Schema:
        properties: dict[str, Any] = {
            name: self.own[name] if name in self.own else row_schema(ROWS[name]) for name in sorted(self.known)
        }
        properties = {name: one if name in self.required else nullable(one) for name, one in properties.items()}
        properties |= {name: HARMLESS_FIELD for name in sorted(self.harmless) if name not in properties}
        for name, refused in self.refused.items():
            if refused.off:
                properties[name] = {"enum": [*refused.off, None], "description": f"This server {refused.advice}."}
        return {
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
            **({"required": list(self.required)} if self.required else {}),
        }
