"""Reads a Secret as Helm's own storage sends it: in Kubernetes' protobuf, of which the few fields here are asked."""

import base64
from collections.abc import Iterator
from typing import Any

MAGIC = b"k8s\x00"  # before a runtime.Unknown, whose field 2 is the object
RAW = 2
META, DATA, TYPE = 1, 2, 3  # of a Secret
NAME, LABELS = 1, 11  # of ObjectMeta


def read_secret(body: bytes) -> dict[str, Any]:
    secret = _fields(_one(_fields(body.removeprefix(MAGIC)), RAW))
    meta = _fields(_one(secret, META))
    labels = {key.decode(): value.decode() for key, value in _map(meta, LABELS)}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _one(meta, NAME).decode(), "labels": labels},
        "data": {key.decode(): base64.b64encode(value).decode() for key, value in _map(secret, DATA)},
        "type": _one(secret, TYPE).decode(),
    }


def _one(fields: list[tuple[int, bytes]], number: int) -> bytes:
    return next((value for found, value in fields if found == number), b"")


def _map(fields: list[tuple[int, bytes]], number: int) -> Iterator[tuple[bytes, bytes]]:
    for entry in (_fields(value) for found, value in fields if found == number):
        yield _one(entry, 1), _one(entry, 2)


def _fields(message: bytes) -> list[tuple[int, bytes]]:
    """Those with a length; numbers are skipped."""
    found, at = [], 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == 2:
            found.append((tag >> 3, message[at : at + value]))
            at += value
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
