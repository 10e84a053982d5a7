"""TLS where HAProxy owns the public ports: on their `bind` lines, from files of our own beside its configuration.

Those hold the last certificate that could be used, so that a HAProxy that is started again has one whatever became of
the configured files. A running HAProxy is told of a new one through its socket: no connection and no stream ends.
"""

import asyncio
import logging
import os
from pathlib import Path

from baton.errors import ConfigError, InternalError
from cluster.config.schema import TLSConfig
from cluster.doors.tls_files import Credentials, read_credentials
from cluster.doors.watched import LOOK_S, Watched

ANSWER_TIMEOUT_S = 5.0

logger = logging.getLogger("ray.serve")


class HAProxyTLS:
    """
    Args:
        tls: Off: nothing is done.
        folder: Private.
    """

    def __init__(self, tls: TLSConfig, folder: Path) -> None:
        self._tls = tls
        self._pair = folder / "public.pem"
        self._client_ca = folder / "client-ca.pem"
        self._watched = Watched([tls.certificate, tls.key, tls.client_ca])
        if tls.is_on:
            self._write_first()

    @property
    def is_on(self) -> bool:
        return self._tls.is_on

    def amended(self, config: str) -> str:
        """The configuration with TLS on the lines that bind descriptors: the public ports."""
        if not self._tls.is_on:
            return config
        lines = config.splitlines()
        return "\n".join(line + self._options(line) if _binds_public(line) else line for line in lines) + "\n"

    def _options(self, line: str) -> str:
        protocols = "h2" if " proto h2" in line else "h2,http/1.1"
        client = f" ca-file {self._client_ca} verify required" if self._tls.client_ca else ""
        return f" ssl crt {self._pair} ssl-min-ver TLSv1.2 alpn {protocols}{client}"

    async def follow(self, socket_path: str) -> None:
        """Until cancelled: hands each change of the files to the HAProxy that listens on its admin socket."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._watched.changed():
                await self._change(socket_path)

    async def _change(self, socket_path: str) -> None:
        try:
            new = read_credentials(self._tls)
        except ConfigError as error:
            logger.error("the certificate of before stays, the changed files are NOT used: %s", error.message)
            return
        try:
            self._write(new)
            if new.client_ca:
                await _replace(socket_path, "ca-file", self._client_ca, new.client_ca)
            await _replace(socket_path, "cert", self._pair, new.certificate + new.key)
        except (OSError, TimeoutError, InternalError) as error:
            logger.error("HAProxy did not take the new certificate, its next start will: %s", error)
            return
        logger.warning("certificate read again expires=%s", new.expires.isoformat())

    def _write_first(self) -> None:
        try:
            self._write(read_credentials(self._tls))
        except ConfigError as error:
            if not self._pair.exists():
                raise
            logger.error("the certificate of before stays, the configured files are NOT used: %s", error.message)

    def _write(self, new: Credentials) -> None:
        for path, content in ((self._pair, new.certificate + new.key), (self._client_ca, new.client_ca)):
            part = path.with_suffix(".new")
            part.unlink(missing_ok=True)
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
            part.replace(path)


def _binds_public(line: str) -> bool:
    words = line.split()
    return words[:1] == ["bind"] and words[1].startswith("fd@")


async def _replace(socket_path: str, kind: str, path: Path, pem: bytes) -> None:
    """Raises: InternalError: HAProxy would not; with its words, which never show what it was given."""
    answer = await _say(socket_path, f"set ssl {kind} {path} <<\n".encode() + pem + b"\n")
    answer += await _say(socket_path, f"commit ssl {kind} {path}\n".encode())
    if "Success" not in answer:
        await _say(socket_path, f"abort ssl {kind} {path}\n".encode())
        raise InternalError(f"HAProxy refused {path.name}: {' '.join(answer.split())[:200]}")


async def _say(socket_path: str, command: bytes) -> str:
    """Not by Serve's own function, whose errors and debug log repeat the command: a private key is in one of ours."""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        reader, writer = await asyncio.open_unix_connection(socket_path)
        try:
            writer.write(command)
            await writer.drain()
            return (await reader.read()).decode("utf-8", "replace")
        finally:
            writer.close()
