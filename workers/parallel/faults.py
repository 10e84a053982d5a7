"""An error of one rank as the others are told it."""

import json

from baton.errors import BatonError, from_code


def encode_fault(error: BatonError, rank: int) -> bytes:
    return json.dumps({"code": error.code, "message": error.message, "rank": rank}).encode()


def decode_fault(payload: bytes) -> BatonError:
    said = json.loads(payload)
    return from_code(said["code"], f"{said['message']} (rank {said['rank']} of the gang)")
