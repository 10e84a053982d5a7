"""Compressed bodies of requests, made plain piece by piece: what comes out is bounded before it exists."""

import zlib

from baton.errors import InvalidRequestError
from cluster.ingress.fields import shorten

PIECE_BYTES = 256 << 10  # made plain at a time: 1 ms, after which streams go on
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's words for a header of gzip, and for its own


class UnsupportedEncodingError(InvalidRequestError):
    code = "unsupported_encoding"
    http_status = 415


class Inflater:
    """One body. Memory: a piece, and what has come and is not read yet; never what a small body claims to be."""

    def __init__(self, encoding: str) -> None:
        """Raises: UnsupportedEncodingError."""
        bits = _WINDOW_BITS.get(encoding)
        if bits is None:
            raise UnsupportedEncodingError(
                f"Content-Encoding is {shorten(encoding)}; send the body plain, or as gzip or deflate"
            )
        self._encoding = encoding
        self._stream = zlib.decompressobj(bits)
        self._rest = b""
        self._has_more = False  # zlib holds output for which the last piece had no room

    def push(self, data: bytes) -> None:
        """What came next; all before it was read."""
        if self._stream.eof and data:
            raise self._broken("something follows its end")
        self._rest = data

    def read(self) -> bytes:
        """The next piece; empty when all that came is read. Raises: InvalidRequestError: it is not of its encoding."""
        if not (self._rest or self._has_more):
            return b""
        try:
            piece = self._stream.decompress(self._rest, PIECE_BYTES)
        except zlib.error as error:
            raise self._broken(str(error)) from error
        self._rest, self._has_more = self._stream.unconsumed_tail, len(piece) == PIECE_BYTES
        if self._stream.unused_data:
            raise self._broken("something follows its end")
        return piece

    def finish(self) -> None:
        """Raises: InvalidRequestError: it is cut off."""
        if not self._stream.eof:
            raise self._broken("it is cut off")

    def _broken(self, reason: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"the body is not {self._encoding}, as Content-Encoding says ({reason}); send one whole stream"
        )


def encoding_of(header: str) -> str:
    """The one encoding that a header names; empty where the body is plain."""
    name = header.strip().lower()
    return "" if name == "identity" else name
