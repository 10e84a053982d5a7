"""Roles in messages."""

from collections.abc import Mapping

from baton.v1 import worker_pb2
from workers.spec import Role

TO_WIRE: Mapping[Role, worker_pb2.Role] = {
    Role.PREFILL: worker_pb2.ROLE_PREFILL,
    Role.DECODE: worker_pb2.ROLE_DECODE,
    Role.MIXED: worker_pb2.ROLE_MIXED,
    Role.DRAFT: worker_pb2.ROLE_DRAFT,
}
FROM_WIRE: Mapping[int, Role] = {number: role for role, number in TO_WIRE.items()}
