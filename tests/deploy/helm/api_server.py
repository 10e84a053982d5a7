"""As much of a Kubernetes API server as `helm install` asks: kinds, and objects that are made, read, changed, removed.

It keeps what it is given and starts nothing. Plain HTTP on loopback.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.deploy.helm.protobuf_body import MAGIC, read_secret

# Group and version -> kind -> name in paths.
KINDS = {
    "v1": {
        "Secret": "secrets",
        "ConfigMap": "configmaps",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
        "Pod": "pods",
        "PersistentVolumeClaim": "persistentvolumeclaims",
    },
    "batch/v1": {"Job": "jobs"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"},
    "gateway.networking.k8s.io/v1": {"HTTPRoute": "httproutes", "GRPCRoute": "grpcroutes"},
    "monitoring.coreos.com/v1": {"ServiceMonitor": "servicemonitors", "PodMonitor": "podmonitors"},
    "ray.io/v1": {"RayCluster": "rayclusters"},
}
OBJECT = re.compile(
    r"^/(?:api|apis)/(?P<version>.+)/namespaces/(?P<namespace>[^/]+)/(?P<kind>[^/]+)(?:/(?P<name>[^/]+))?$"
)

Key = tuple[str, str, str]  # group and version, kind's name in paths, name


class Store:
    def __init__(self) -> None:
        self.objects: dict[Key, dict[str, Any]] = {}
        self.lock = threading.Lock()

    def names(self, kind: str) -> list[str]:
        return sorted(name for _, of_kind, name in self.objects if of_kind == kind)

    def one(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = (one for (_, of_kind, its), one in self.objects.items() if (of_kind, its) == (kind, name))
        return found


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    kept = {key: value for key, value in old.items() if key not in new}
    return kept | {key: _merged(old.get(key), value) for key, value in new.items() if value is not None}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def log_message(self, *arguments: Any) -> None:
        pass

    def _say(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _missing(self) -> None:
        self._say(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})

    def _body(self) -> dict[str, Any]:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if text.startswith(MAGIC):
            return read_secret(text)
        read: dict[str, Any] = yaml.safe_load(text) or {}
        return read

    def _key(self) -> tuple[Key, dict[str, list[str]]] | None:
        parts = urlsplit(self.path)
        match = OBJECT.match(parts.path)
        if match is None:
            return None
        return (match["version"], match["kind"], match["name"] or ""), parse_qs(parts.query)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if (found := self._key()) is not None:
            self._get(*found)
        elif (known := _discovered(path)) is not None:
            self._say(200, known)
        else:
            self._missing()

    def _get(self, key: Key, query: dict[str, list[str]]) -> None:
        if key[2]:
            one = self.store.objects.get(key)
            return self._say(200, one) if one is not None else self._missing()
        wanted = dict(
            pair.split("=") for text in query.get("labelSelector", []) for pair in text.split(",") if "=" in pair
        )
        items = [one for (*kind, _), one in self.store.objects.items() if tuple(kind) == key[:2]]
        items = [one for one in items if wanted.items() <= one["metadata"].get("labels", {}).items()]
        (kind,) = (kind for kind, name in KINDS[key[0]].items() if name == key[1])
        return self._say(200, {"kind": f"{kind}List", "apiVersion": key[0], "metadata": {}, "items": items})

    def _put(self, status: int) -> None:
        found = self._key()
        if found is None:
            return self._missing()
        (version, kind, name), _ = found
        body = self._body()
        key = (version, kind, name or body["metadata"]["name"])
        with self.store.lock:
            old = self.store.objects.get(key, {})
            new = _merged(old, body) if self.command == "PATCH" else body
            new["metadata"] = {"namespace": "serving", "uid": str(key), **new["metadata"], "resourceVersion": "1"}
            self.store.objects[key] = new
        return self._say(status, new)

    def do_POST(self) -> None:
        self._put(201)

    def do_PUT(self) -> None:
        self._put(200)

    def do_PATCH(self) -> None:
        self._put(200)

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = self._key()
        if found is None or self.store.objects.pop(found[0], None) is None:
            return self._missing()
        return self._say(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})


def _discovered(path: str) -> dict[str, Any] | None:
    if path == "/version":
        return {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [_group(version) for version in KINDS if "/" in version]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if version not in KINDS:
        return None
    verbs = ["create", "delete", "get", "list", "patch", "update"]
    resources = [
        {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs}
        for kind, name in KINDS[version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _group(version: str) -> dict[str, Any]:
    one = {"groupVersion": version, "version": version.partition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [one], "preferredVersion": one}


@contextmanager
def api_server(folder: Path) -> Iterator[tuple[Store, Path]]:
    """What it keeps, and the kubeconfig with which it is asked."""
    store = Store()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"store": store}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    config = folder / "kubeconfig"
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "", "namespace": "serving"}}
    kube = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context], "current-context": "c"}
    config.write_text(yaml.safe_dump(kube), encoding="utf-8")
    try:
        yield store, config
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
