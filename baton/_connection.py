"""What a client's calls go over: a channel, plain or with TLS, and the key that each call carries.

Invariant: a key goes in plain text to this machine alone, unless the caller says that the network is trusted. One
that was sent cannot be taken back, so it is refused before anything is sent rather than warned of. `metadata` alone
holds it; no error, log or repr shows it.
"""

import ipaddress
import os
import ssl

import grpc
import grpc.aio

from baton.errors import ConfigError
from baton.tls import TLS, Path

KEY_ENV = "BATON_API_KEY"
PLAIN_KEY_ENV = "BATON_ALLOW_PLAIN_KEY"

CHANNEL_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),  # gRPC's own 1 s would outlast the SDK's retries
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_NO_PROXY = (("grpc.enable_http_proxy", 0),)  # of the environment: it stands on another machine


class Connection:
    """Where calls go and what they carry; opens no socket itself.

    Attributes:
        target: As given.
        metadata: For every call: the key, or nothing.
    """

    def __init__(
        self, target: str, *, api_key: str | None = None, tls: bool | TLS = False, allow_plain_key: bool | None = None
    ) -> None:
        """Arguments as `baton.Client`'s. Raises: ConfigError: one of them cannot be, named."""
        self.target = target
        self.metadata = key_metadata(api_key)
        self._options = CHANNEL_OPTIONS
        if isinstance(tls, TLS):
            self._credentials = _credentials(tls)
            if tls.server_name:
                self._options = (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", tls.server_name))
        elif isinstance(tls, bool):
            self._credentials = grpc.ssl_channel_credentials() if tls else None
        else:
            raise ConfigError(f"tls is of type {type(tls).__name__}; give True, False or baton.TLS(ca=...)")
        if self._credentials is None:
            self._check_plain(allow_plain_key)

    def _check_plain(self, allow_plain_key: bool | None) -> None:
        if is_loopback(self.target):
            self._options = (*self._options, *_NO_PROXY)
            return
        is_allowed = os.environ.get(PLAIN_KEY_ENV) == "1" if allow_plain_key is None else allow_plain_key
        if self.metadata and not is_allowed:
            raise ConfigError(
                f"api_key would go to {self.target} in plain text, for all on the way to read; give tls=True or "
                f"tls=baton.TLS(...), or, on a network that is trusted, allow_plain_key=True or {PLAIN_KEY_ENV}=1"
            )

    def channel(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self.target, options=self._options)
        return grpc.secure_channel(self.target, self._credentials, options=self._options)

    def aio_channel(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, options=self._options)
        return grpc.aio.secure_channel(self.target, self._credentials, options=self._options)


def key_metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """What carries a key, None that of the environment; or nothing. Raises: ConfigError: no header can hold it."""
    # A secret that became a variable often has a line's end; one that was typed has none.
    key = os.environ.get(KEY_ENV, "").strip() if api_key is None else api_key
    where = KEY_ENV if api_key is None else "api_key"
    if not isinstance(key, str):
        raise ConfigError(f"{where} is of type {type(key).__name__}; give the key as text")
    for place, character in enumerate(key):
        if not "!" <= character <= "~":
            raise ConfigError(
                f"{where} holds a character that no key has, at place {place} of {len(key)}; "
                "give the key as it was printed, without spaces or line ends"
            )
    return (("authorization", f"Bearer {key}"),) if key else ()


def _credentials(tls: TLS) -> grpc.ChannelCredentials:
    if (tls.certificate is None) != (tls.key is None):
        given, missing = ("certificate", "key") if tls.key is None else ("key", "certificate")
        raise ConfigError(f"tls.{given} is given without tls.{missing}; mutual TLS needs both")
    ca = None if tls.ca is None else _read("ca", tls.ca)
    key = None if tls.key is None else _read("key", tls.key)
    chain = None if tls.certificate is None else _read("certificate", tls.certificate)
    _check_files(tls)
    return grpc.ssl_channel_credentials(ca, key, chain)


def _read(name: str, path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"tls.{name} {os.fspath(path)} cannot be read: {error.strerror}") from error


def _check_files(tls: TLS) -> None:
    """gRPC itself would say so at the first call alone, and not what is wrong."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca is not None:
        try:
            context.load_verify_locations(tls.ca)
        except ssl.SSLError as error:
            raise ConfigError(f"tls.ca {os.fspath(tls.ca)} holds no certificate (PEM): {error.reason}") from error
    if tls.certificate is not None:
        try:
            context.load_cert_chain(tls.certificate, tls.key, password=lambda: "")  # never asks a terminal
        except ssl.SSLError as error:
            raise ConfigError(
                f"tls.certificate {os.fspath(tls.certificate)} and tls.key {tls.key} are no pair of a certificate and "
                f"its private key (PEM, not encrypted): {error.reason}"
            ) from error


def is_loopback(target: str) -> bool:
    """Whether a gRPC target names this machine and nothing else."""
    scheme, colon, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract") and colon:
        return True
    if scheme == "dns" and (rest.startswith("///") or not rest.startswith("/")):
        target = rest.removeprefix("///")
    elif scheme in ("ipv4", "ipv6") and rest:
        target = rest
    return all(is_local(_host(address)) for address in target.split(","))


def _host(address: str) -> str:
    if address.startswith("["):
        return address[1:].partition("]")[0]
    host, _, port = address.rpartition(":")
    return host if host and ":" not in host and port.isdigit() else address


def is_local(host: str) -> bool:
    """Whether a host's name or address, without brackets, is this machine's alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
