"""values.schema.json: each value has its default's type unless a table here says more; other keys are refused."""

import json
from typing import Any

import yaml

from tools.chart import config_keys

STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
OBJECTS = {"type": "array", "items": {"type": "object"}}
PORT = {"type": ["integer", "null"], "minimum": 1, "maximum": 65535}
COUNT = {"type": "integer", "minimum": 0}
SECONDS = {"type": "integer", "minimum": 1}
QUANTITY = {"type": ["string", "number"], "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGTPE]i?)?$"}
RESOURCES = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        key: {"type": "object", "additionalProperties": QUANTITY, "propertyNames": {"not": {"pattern": "gpu"}}}
        for key in ("requests", "limits")
    },
}
POD = {
    "nodeSelector": STRINGS,
    "tolerations": OBJECTS,
    "affinity": {"type": "object"},
    "topologySpreadConstraints": OBJECTS,
    "annotations": STRINGS,
    "labels": STRINGS,
    "env": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {"name": {"type": "string"}, "value": {"type": "string"}, "valueFrom": {"type": "object"}},
        },
    },
    "terminationGracePeriodSeconds": COUNT,
}
API_KEY = {
    "type": "object",
    "required": ["name", "sha256"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "models": {"type": "array", "items": {"type": "string"}},
        "requests_per_minute": {"type": "integer", "minimum": 1},
        "max_concurrent": {"type": "integer", "minimum": 1},
        "tokens_per_minute": {"type": "integer", "minimum": 1},
        "expires": {"type": "string"},
    },
}
BY_PATH: dict[str, dict[str, Any]] = {
    "config": {
        "type": ["object", "string", "null"],
        "if": {"type": "object"},
        "then": {"$ref": "#/$defs/config"},
    },
    "image.tag": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{0,128}$", "not": {"const": "latest"}},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "upgradeStrategy": {"enum": ["Recreate", "None"]},
    "modelCache.type": {"enum": ["emptyDir", "hostPath", "pvc"]},
    "modelCache.hostPath": {"type": "string", "pattern": "^(/.*)?$"},
    "modelCache.accessMode": {"enum": ["ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"]},
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.httpPort": PORT,
    "service.grpcPort": PORT,
    "service.loadBalancerSourceRanges": {"type": "array", "items": {"type": "string"}},
    "gateway.hostnames": {"type": "array", "items": {"type": "string"}},
    "gateway.requestTimeout": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
    "gcsFaultTolerance.redisAddress": {"type": "string", "pattern": r"^(.+:[0-9]+)?$"},
    "autoscaling.upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
    "auth.keys": {"type": "array", "items": API_KEY},
}
BY_NAME: dict[str, dict[str, Any]] = {
    "annotations": STRINGS,
    "grpcAnnotations": STRINGS,
    "labels": STRINGS,
    "resources": RESOURCES,
    "shmSize": QUANTITY,
    "size": QUANTITY,
    "pod": {"$ref": "#/$defs/pod"},
    "maxUnavailable": COUNT,
    "minWorkers": COUNT,
    "maxWorkers": COUNT,
    "backoffLimit": COUNT,
    "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
}


def text(values: str) -> str:
    tree = yaml.safe_load(values)
    pod = _schema(tree["podDefaults"], "podDefaults", POD)
    schema = _schema(tree, "", {})
    schema["properties"]["podDefaults"] = {"$ref": "#/$defs/pod"}
    schema["properties"]["global"] = {"type": "object"}  # Helm's own, of a chart that has this one below it
    made = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart baton; made by tools.chart",
        "$defs": {"config": config_keys.schema(), "pod": pod},
        **schema,
    }
    return json.dumps(made, indent=1) + "\n"


def _schema(value: Any, path: str, by_name: dict[str, Any]) -> dict[str, Any]:
    name = path.rpartition(".")[2]
    for found in (BY_PATH.get(path), by_name.get(name), BY_NAME.get(name)):
        if found is not None:
            return found
    if isinstance(value, dict):
        properties = {key: _schema(below, f"{path}.{key}" if path else key, by_name) for key, below in value.items()}
        return {"type": "object", "additionalProperties": False, "properties": properties}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return SECONDS if name.endswith("Seconds") else {"type": "integer"}
    return OBJECTS if isinstance(value, list) else {"type": "string"}
