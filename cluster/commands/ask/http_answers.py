"""Answers from any server with OpenAI's HTTP API: texts by /v1/completions, messages by /v1/chat/completions."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

import baton
from baton._connection import is_local
from baton.errors import BatonError, ConfigError, ModelNotFoundError, UnavailableError, from_code
from cluster.commands.ask.source import Ask
from cluster.doors.client_door import ClientDoor

_TIMEOUT_S = 600.0
_DATA = "data:"
_DONE = "[DONE]"


class HTTPSource:
    """One connection to the server at `url`, with or without /v1."""

    def __init__(self, url: str, door: ClientDoor | None = None) -> None:
        """Raises: ConfigError: `url` is none, or the door cannot be used."""
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--url {url} is no URL; give one such as http://127.0.0.1:8000")
        self._url = url.rstrip("/").removesuffix("/v1")
        door = door or ClientDoor()
        context = door.context(url)
        self._client = httpx.Client(
            timeout=httpx.Timeout(_TIMEOUT_S, connect=10.0),
            headers=door.headers(url),
            verify=context if context is not None else False,  # of a plain URL there is nothing to verify
            trust_env=not is_local(urlsplit(url).hostname or ""),  # its proxy would read key and prompt
        )
        self._extensions = {"sni_hostname": door.server_name} if door.server_name else {}

    @contextmanager
    def answer(self, prompt: str | Sequence[baton.Message], ask: Ask) -> Iterator[Iterator[str]]:
        is_chat = not isinstance(prompt, str)
        body = {"model": ask.model or self._first_model(), "stream": True, **ask.sampling()}
        if form := ask.form():
            body["structured_outputs"] = form
        body |= {"messages": list(prompt)} if is_chat else {"prompt": prompt}
        path = "/v1/chat/completions" if is_chat else "/v1/completions"
        try:
            with self._client.stream("POST", self._url + path, json=body, extensions=self._extensions) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refusal(response)
                yield _pieces(response)
        except httpx.TransportError as error:
            raise self._unavailable(error) from error

    def get(self, path: str) -> Any:
        """The JSON there. Raises: BatonError: what the server says is wrong, or that none answers."""
        try:
            response = self._client.get(f"{self._url}{path}", extensions=self._extensions)
            if response.status_code != 200:
                raise _refusal(response)
            return response.json()
        except httpx.TransportError as error:
            raise self._unavailable(error) from error
        except ValueError as error:
            raise UnavailableError(f"{self._url}{path} gave no JSON") from error

    def _first_model(self) -> str:
        try:
            models = self.get("/v1/models")["data"]
        except (KeyError, TypeError) as error:
            raise UnavailableError(f"{self._url}/v1/models gave no list of models") from error
        if not models:
            raise ModelNotFoundError(f"{self._url} serves no model yet; see `baton status`")
        return str(models[0]["id"])

    def _unavailable(self, error: httpx.TransportError) -> UnavailableError:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return UnavailableError(f"{self._url} shows a certificate that is not trusted here ({error}); see --tls-ca")
        if isinstance(error, httpx.ConnectError):
            return UnavailableError(f"no server answers at {self._url}; start one with `baton up` or `make serve`")
        return UnavailableError(f"{self._url}: the connection was lost ({error})")

    def close(self) -> None:
        self._client.close()


def _pieces(response: httpx.Response) -> Iterator[str]:
    is_done = False
    for line in response.iter_lines():
        data = line.removeprefix(_DATA).strip()
        if not line.startswith(_DATA):
            continue
        if data == _DONE:
            is_done = True
            continue
        yield from _texts(data, response.status_code)
    if not is_done:
        raise UnavailableError("the stream ended early; the server may have stopped")


def _texts(data: str, status: int) -> list[str]:
    try:
        event = json.loads(data)
        if "error" not in event:
            return [choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in event["choices"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UnavailableError(f"the server sent a malformed event: {data[:200]}") from error
    raise _error(event["error"], status)


def _refusal(response: httpx.Response) -> BatonError:
    try:
        return _error(response.json()["error"], response.status_code)
    except (ValueError, KeyError, TypeError):
        return BatonError(f"{response.url}: HTTP {response.status_code}: {response.text[:200]}")


def _error(error: Any, status: int) -> BatonError:
    message = str(error.get("message") or f"HTTP {status}")
    return from_code(str(error.get("code") or ""), message)
