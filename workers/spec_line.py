"""A worker's spec as the one line of JSON that starts a worker process."""

import dataclasses
import json
from typing import Any

from workers.adapters.adapter import AdapterSpec
from workers.spec import EngineSpec, GangSpec, KVSpec, Role, SpeculationSpec, WorkerSpec


def dump(spec: WorkerSpec, incarnation: str) -> str:
    """What `workers.process` reads, without the newline."""
    return json.dumps({"spec": dataclasses.asdict(spec), "incarnation": incarnation})


def parse(line: str) -> tuple[WorkerSpec, str]:
    message: dict[str, Any] = json.loads(line)
    fields = message["spec"]
    fields["role"] = Role(fields["role"])
    fields["engine"] = EngineSpec(**fields["engine"])
    fields["kv"] = KVSpec(**fields["kv"])
    fields["speculation"] = SpeculationSpec(**fields["speculation"])
    fields["gang"] = GangSpec(**fields["gang"])
    fields["adapters"] = tuple(AdapterSpec(**adapter) for adapter in fields["adapters"])
    fields["cores"] = tuple(fields["cores"])
    return WorkerSpec(**fields), message["incarnation"]
