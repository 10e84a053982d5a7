"""What a command shows at a server's door: the API key, and how the server is known; over HTTP and gRPC alike."""

import os
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import baton
from baton._connection import PLAIN_KEY_ENV, is_local, key_metadata
from baton.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientDoor:
    """
    Attributes:
        api_key: None: that of BATON_API_KEY, if there is one.
        tls: Of gRPC; None: as the running cluster, or of another server where a file for it is named.
        ca: PEM of the authorities that may have signed the server's certificate; empty: the public ones.
        certificate: Of the client, as the next: mutual TLS.
        server_name: That the certificate must be for; empty: the address.
    """

    api_key: str | None = field(default=None, repr=False)
    tls: bool | None = None
    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""

    def for_grpc(self, *, is_tls: bool | None = None) -> dict[str, Any]:
        """Arguments of `baton.Client`. `is_tls`: what the server is known to speak where no option says."""
        return {"api_key": self.api_key, "tls": self._tls() if self._wants_tls(is_tls) else False}

    def headers(self, url: str) -> dict[str, str]:
        """Raises: ConfigError: no header can hold the key, or it would go to another machine in plain text."""
        metadata = key_metadata(self.api_key)
        if not metadata:
            return {}
        parts = urlsplit(url)
        is_private = parts.scheme == "https" or is_local(parts.hostname or "")
        if not is_private and os.environ.get(PLAIN_KEY_ENV) != "1":
            raise ConfigError(
                f"--api-key would go to {parts.hostname} in plain text, for all on the way to read; use https, or, "
                f"on a network that is trusted, {PLAIN_KEY_ENV}=1"
            )
        return {"Authorization": metadata[0][1]}

    def context(self, url: str) -> ssl.SSLContext | None:
        """For an HTTP client; None: `url` is plain. Raises: ConfigError: a file cannot be used."""
        if not url.startswith("https:"):
            if self.tls:
                raise ConfigError(f"--url {url} is plain HTTP, and --tls is given; give https://")
            return None
        if self.tls is False:
            raise ConfigError(f"--url {url} is HTTPS, and --no-tls is given; leave one of them out")
        try:
            context = ssl.create_default_context(cafile=self.ca or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"--tls-ca {self.ca} cannot be used ({error}); give a PEM file") from error
        if self.certificate or self.key:
            self._check_pair()
            try:
                context.load_cert_chain(self.certificate, self.key, password=lambda: "")
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(
                    f"--tls-certificate {self.certificate} and --tls-key {self.key} cannot be used ({error})"
                ) from error
        return context

    @property
    def _has_files(self) -> bool:
        return bool(self.ca or self.certificate or self.key or self.server_name)

    def _wants_tls(self, is_tls: bool | None) -> bool:
        """Files may be named by the environment, for other servers: they decide only where nothing else does."""
        if self.tls is not None:
            return self.tls
        return self._has_files if is_tls is None else is_tls

    def _tls(self) -> "bool | baton.TLS":
        if not self._has_files:
            return True
        self._check_pair()
        return baton.TLS(
            ca=self.ca or None,
            certificate=self.certificate or None,
            key=self.key or None,
            server_name=self.server_name,
        )

    def _check_pair(self) -> None:
        if bool(self.certificate) != bool(self.key):
            given, missing = ("certificate", "key") if self.certificate else ("key", "certificate")
            raise ConfigError(f"--tls-{given} is given without --tls-{missing}; mutual TLS needs both")
