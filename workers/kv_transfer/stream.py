"""The control stream of one link, as the sender's thread uses it; `grpc_link` opens it."""

from typing import Protocol

from baton.v1.kv_pb2 import FromSender


class LinkDownError(Exception):
    """The control stream is gone."""


class Wire(Protocol):
    """The control stream of one link. What comes back is given to `ToPeer.on_reply` and `on_down`."""

    def send(self, message: FromSender | bytes, timeout_s: float) -> None:
        """Blocks while the peer is slow; `message` may be written out already.

        Raises: LinkDownError: the stream is gone, or the peer took nothing for `timeout_s`.
        """
        ...

    def close(self) -> None: ...
