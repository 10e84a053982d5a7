"""The files of `tls`: read once, whole, and checked as what they are to be together."""

import datetime
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baton.errors import ConfigError
from cluster.config.schema import TLSConfig

MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """PEM without empty lines. Invariant: the key is that of the first certificate."""

    certificate: bytes  # with its chain
    key: bytes = field(repr=False)
    client_ca: bytes  # empty: clients need no certificate
    expires: datetime.datetime


def read_credentials(tls: TLSConfig, now: Callable[[], datetime.datetime] | None = None) -> Credentials:
    """Raises: ConfigError: a file is not there or not what it should be, the key does not fit, or a date has passed.

    The message names file and fix, and shows nothing of what is in the file.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    moment = now() if now is not None else datetime.datetime.now(datetime.UTC)
    certificate, key = _read(tls.certificate, "tls.certificate"), _read(tls.key, "tls.key")
    chain = _certificates(certificate, tls.certificate, "tls.certificate")
    own = chain[0]
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if _public_key(own, tls.certificate).public_bytes(*spki) != _private_key(key, tls.key).public_key().public_bytes(
        *spki
    ):
        raise ConfigError(
            f"tls.key: {tls.key} is not the key of the first certificate in {tls.certificate}; give the pair, and the "
            "server's own certificate before those of its authorities"
        )
    if own.not_valid_after_utc <= moment:
        raise ConfigError(
            f"tls.certificate: {tls.certificate} expired on {own.not_valid_after_utc:%Y-%m-%d}; get a new one"
        )
    if own.not_valid_before_utc > moment:
        raise ConfigError(
            f"tls.certificate: {tls.certificate} is not valid before {own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; "
            "wait, or set this machine's clock"
        )
    client_ca = _read(tls.client_ca, "tls.client_ca") if tls.client_ca else b""
    if client_ca:
        _certificates(client_ca, tls.client_ca, "tls.client_ca")
    credentials = Credentials(
        certificate=_without_empty_lines(certificate),
        key=_without_empty_lines(key),
        client_ca=_without_empty_lines(client_ca),
        expires=own.not_valid_after_utc,
    )
    try:
        server_context(credentials)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or type(error).__name__
        raise ConfigError(
            f"tls.certificate: OpenSSL does not take {tls.certificate} with its key or client_ca ({reason}); give keys "
            "of 2048 bits or more (RSA) or elliptic ones, signed with SHA-256 or better"
        ) from None
    return credentials


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """Raises: ssl.SSLError: OpenSSL finds them too weak, or not what they should be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    with tempfile.NamedTemporaryFile() as pair:  # its owner's alone; OpenSSL reads from files
        pair.write(credentials.certificate + credentials.key)
        pair.flush()
        context.load_cert_chain(pair.name)
    if credentials.client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.options |= ssl.OP_NO_TICKET  # who resumes a session shows no certificate: of an authority that is gone
        context.num_tickets = 0
        context.load_verify_locations(cadata=credentials.client_ca.decode("ascii", "ignore"))
    return context


def _read(path: str, field_name: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{field_name}: {path} cannot be read ({error.strerror}); give a PEM file that this user can read"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{field_name}: {path} is over {MAX_FILE_BYTES >> 20} MiB; give a PEM file")
    return content


def _certificates(pem: bytes, path: str, field_name: str):  # type: ignore[no-untyped-def]  # cryptography's
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{field_name}: {path} holds no certificate that can be read; give PEM") from None


def _public_key(certificate: Any, path: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"tls.certificate: {path} has a key of a kind that is not known; use RSA or P-256") from None


def _private_key(pem: bytes, path: str):  # type: ignore[no-untyped-def]  # cryptography's
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigError(f"tls.key: {path} is encrypted, and nobody could type its password; decrypt it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"tls.key: {path} holds no private key that can be read; give PEM") from None


def _without_empty_lines(pem: bytes) -> bytes:
    return b"".join(line.strip() + b"\n" for line in pem.splitlines() if line.strip())
