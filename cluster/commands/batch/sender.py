"""Sends a batch's requests to a server, again where it says that it has no room, and makes records of its answers."""

import asyncio
import json
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from baton._connection import is_local
from baton.errors import ConfigError, UnavailableError
from cluster.commands.batch.lines import BatchLine
from cluster.doors.client_door import ClientDoor

RETRIED = (429, 502, 503)
CONNECT_TIMEOUT_S = 10.0
MAX_BACKOFF_S = 30.0
MAX_RETRY_AFTER_S = 3600.0
_JSON = {"Content-Type": "application/json"}


class Sender:
    """Made and used on one running event loop; `async with` closes its connections."""

    def __init__(
        self,
        url: str,
        door: ClientDoor,
        *,
        max_retries: int,
        timeout_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """
        Args:
            url: With or without /v1.
            max_retries: Of one request, with pauses that grow to 30 s, or those that the server asks for.
            timeout_s: Until a request that is sent is given up.
        Raises: ConfigError: `url` is none, or the door cannot be used.
        """
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--url {url} is no URL; give one such as http://127.0.0.1:8000")
        self._url = url.rstrip("/").removesuffix("/v1")
        self._max_retries = max_retries
        self._timeout_s = timeout_s
        self._sleep = sleep
        context = door.context(url)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
            limits=httpx.Limits(max_connections=None),
            headers=door.headers(url),
            verify=context if context is not None else False,  # of a plain URL there is nothing to verify
            trust_env=not is_local(urlsplit(url).hostname or ""),  # its proxy would read key and prompts
        )
        self._extensions = {"sni_hostname": door.server_name} if door.server_name else {}

    async def __aenter__(self) -> "Sender":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def answer(self, line: BatchLine) -> dict[str, Any]:
        """The record of a request's answer. Raises: UnavailableError: nobody answers, all retries long."""
        if line.fault:
            return _failed(line, "invalid_line", f"line {line.number}: {line.fault}")
        num_tries = 0
        while True:
            response = await self._send(line, is_last=num_tries == self._max_retries)
            pause_s = _pause_s(response, num_tries)
            if pause_s is None or num_tries == self._max_retries:
                break
            await self._sleep(pause_s)
            num_tries += 1
        if response is None:
            return _failed(line, "timeout", f"no answer within {self._timeout_s:g} s; give --timeout")
        return _answered(line, response)

    async def _send(self, line: BatchLine, *, is_last: bool) -> "httpx.Response | _Lost | None":
        """None: it took too long. Raises: UnavailableError: the connection was lost at the last try."""
        try:
            return await self._client.post(
                self._url + line.url, content=_encoded(line), headers=_JSON, extensions=self._extensions
            )
        except (httpx.ReadTimeout, httpx.WriteTimeout):
            return None
        except httpx.TransportError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise UnavailableError(
                    f"{self._url} shows a certificate that is not trusted here ({error}); see --tls-ca"
                ) from error
            if is_last:
                raise UnavailableError(f"{self._url} does not answer ({error or type(error).__name__})") from error
            return _Lost()


def _encoded(line: BatchLine) -> bytes:
    """As it stood in the file, half a character or 1e999 too: what is wrong in a body is for the server to say."""
    return json.dumps(line.body).encode()


class _Lost:
    """A connection without an answer."""


def _pause_s(response: "httpx.Response | _Lost | None", num_tries: int) -> float | None:
    """Before the next try; None: there is none, the answer is final."""
    backoff_s = min(MAX_BACKOFF_S, 0.5 * 2.0**num_tries) * random.uniform(0.5, 1.0)
    if isinstance(response, _Lost):
        return backoff_s
    if response is None or response.status_code not in RETRIED:
        return None
    try:
        asked_s = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return backoff_s
    return asked_s if 0.0 <= asked_s <= MAX_RETRY_AFTER_S else None


def _answered(line: BatchLine, response: "httpx.Response | _Lost") -> dict[str, Any]:
    assert isinstance(response, httpx.Response)  # of a lost one the last try has raised
    try:
        body = response.json()
    except ValueError:
        return _failed(line, "bad_response", f"HTTP {response.status_code}, no JSON: {response.text[:200]}")
    request_id = response.headers.get("x-request-id") or (body.get("id") if isinstance(body, dict) else None)
    answer = {"status_code": response.status_code, "request_id": request_id or "", "body": body}
    return {"id": _new_id(), "custom_id": line.custom_id, "response": answer, "error": None}


def _failed(line: BatchLine, code: str, message: str) -> dict[str, Any]:
    error = {"code": code, "message": message}
    return {"id": _new_id(), "custom_id": line.custom_id, "response": None, "error": error}


def _new_id() -> str:
    return f"batch_req_{uuid.uuid4().hex}"
