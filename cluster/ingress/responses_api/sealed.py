"""Thoughts as `encrypted_content`: an opaque text that a client without a stored conversation sends back.

There is nothing to hide here, as the thought itself stands beside it: clients that send only this back, as OpenAI's
make them, lose nothing.
"""

import base64
import binascii
from typing import Any

from cluster.ingress.reading import refusal, text

_PREFIX = "baton1."


def sealed(thought: str) -> str:
    return _PREFIX + base64.urlsafe_b64encode(thought.encode("utf-8", "replace")).decode()


def unsealed(value: Any, path: str) -> str:
    """Raises: InvalidRequestError: this server has not written it."""
    written = text(value, path)
    try:
        if not written.startswith(_PREFIX):
            raise ValueError("another prefix")
        return base64.urlsafe_b64decode(written.removeprefix(_PREFIX).encode("ascii")).decode()
    except (ValueError, binascii.Error) as error:
        raise refusal(path, f"{path} is not one that this server has written; leave the item out") from error
