"""How a client checks the server it talks to, and shows who it is itself."""

import os
from dataclasses import dataclass

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """Files (PEM) for a connection with TLS; they are read when a client is made.

    Attributes:
        ca: Certificates of the authorities that may have signed the server's; None: the public ones that gRPC brings.
        certificate: Of the client, followed by those between it and its authority: mutual TLS; needs `key`.
        key: The private key of `certificate`, not encrypted.
        server_name: The name that the server's certificate must be for; empty: the host of the client's target.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
