"""Looks at what guards the public ports before anything starts: certificates, keys, and whether there are any."""

import datetime
import ipaddress
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baton.errors import ConfigError
from cluster.config.schema import BatonConfig
from cluster.doors.guard import configured_keys
from cluster.doors.key_ring import KeyRing
from cluster.doors.tls_files import read_credentials

if TYPE_CHECKING:
    from cluster.fleet.nodes import Node

SOON = datetime.timedelta(days=14)


def check_doors(config: BatonConfig) -> None:
    """On the machine whose files the config names. Raises: ConfigError: `tls` or `auth` cannot be used as it is."""
    if config.tls.is_on:
        read_credentials(config.tls)
    if config.auth.is_on:
        configured_keys(config.auth)


def door_warnings(config: BatonConfig) -> Iterator[str]:
    """What works, and lets in more than one may want. Files are not looked at: see `file_warnings`."""
    host = config.http.host
    if is_loopback(host):
        return
    if not config.auth.is_on and not config.tls.client_ca:
        yield (
            f"http.host: {host} lets EVERYBODY who reaches this machine's ports use the model: no API keys are set. "
            "`baton key create NAME --file keys.yaml`, then `auth: {keys_file: keys.yaml}`; or http.host: 127.0.0.1"
        )
    if not config.tls.is_on:
        what = "API keys, prompts and answers" if config.auth.is_on else "prompts and answers"
        yield (
            f"http.host: {host} sends {what} in plain text for all on the way to read; set tls.certificate and "
            "tls.key, unless something in front of it speaks TLS"
        )


def file_warnings(config: BatonConfig) -> Iterator[str]:
    """Of files that `check_doors` has found right."""
    if config.tls.is_on:
        expires = read_credentials(config.tls).expires
        if expires - datetime.datetime.now(datetime.UTC) < SOON:
            yield f"tls.certificate: {config.tls.certificate} expires on {expires:%Y-%m-%d %H:%M} UTC; renew it"
        yield from _open_to_others(config.tls.key, "tls.key")
    if config.auth.is_on:
        keys = configured_keys(config.auth)
        if not keys:
            yield (
                f"auth.keys_file: {config.auth.keys_file} has no keys: every request is refused; `baton key create "
                f"NAME --file {config.auth.keys_file}` makes one, at once in force"
            )
        for key in KeyRing(keys, clock=time.time).expired():
            yield f"auth: the key {key.name} has expired ({key.expires})"


def doors_error(config: BatonConfig) -> str:
    """As `check_doors`, for a node elsewhere; empty: none."""
    try:
        check_doors(config)
    except ConfigError as error:
        return error.message
    return ""


def check_doors_of_nodes(config: BatonConfig) -> Iterator[str]:
    """Of the connected Ray cluster, where the files are its nodes' own: the head, which has a proxy, must have them.

    Yields words about others with a door that have not: proxies and replicas that Serve starts there would fail.
    Raises: ConfigError.
    """
    if not (config.tls.is_on or config.auth.is_on):
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from cluster.fleet import nodes

    around = with_doors(config, nodes.alive())
    asked = [
        ray.remote(doors_error)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False))
        .remote(config)
        for node in around
    ]
    for number, (node, answer) in enumerate(zip(around, asked, strict=True)):
        error = _answered(answer)
        if error and number == 0:
            raise ConfigError(f"{error} (on Ray's head node {node.address})")
        if error:
            yield f"{error} (on node {node.address}); an ingress replica or proxy there cannot start"


def with_doors(config: BatonConfig, around: "Sequence[Node]") -> "list[Node]":
    """Of the nodes, the head first, those where a proxy or an ingress replica may be."""
    head, *others = around
    resource = config.http.node_resource
    if resource:
        return [head, *(node for node in others if node.resources.get(resource))]
    return [head, *others] if config.http.replicas > 1 else [head]


def _answered(reference: object) -> str:
    import ray
    from ray.exceptions import RayError

    try:
        return str(ray.get(reference, timeout=30.0))  # type: ignore[call-overload]
    except RayError as error:
        return f"its files of tls and auth could not be looked at: {type(error).__name__}"


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _open_to_others(path: str, field: str) -> Iterator[str]:
    mode = Path(path).stat().st_mode
    if mode & 0o007:
        yield f"{field}: {path} can be read by every user of this machine; `chmod o= {path}`"
