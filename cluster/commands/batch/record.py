"""A batch's output file, which is the record of what is done: one line per answered request, each written once.

A line is appended by one write and reaches the disk within a second or at the end, so that a run that is killed in
any way is taken up where it stopped. One process at a time has the file.
"""

import fcntl
import json
import os
import time
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from baton.errors import ConfigError

SYNC_S = 1.0


class BatchRecord:
    """A context manager; `done` holds the custom ids that are answered, `num_failed` how many of them badly."""

    def __init__(self, path: Path) -> None:
        """Takes up what is there; a last line that was cut off is removed.

        Raises: ConfigError: the file cannot be written, is another process's, or holds something else.
        """
        self.path = path
        self.done: set[str] = set()
        self.num_failed = 0
        self._file = _open(path)
        self._synced_s = time.monotonic()
        try:
            self._load()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> "BatchRecord":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file)
        os.close(self._file)

    def check_is_of(self, custom_ids: Container[str]) -> None:
        """Raises: ConfigError: it holds answers to other requests."""
        strange = next((one for one in self.done if one not in custom_ids), None)
        if strange is not None:
            raise ConfigError(
                f"{self.path} holds an answer to {strange!r}, which is no request of this batch; give another file"
            )

    def append(self, entry: Mapping[str, Any]) -> None:
        """Raises: ConfigError: the disk is full, or gone."""
        data = _encoded(entry)
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            if time.monotonic() - self._synced_s >= SYNC_S:
                os.fsync(self._file)
                self._synced_s = time.monotonic()
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be written: {error.strerror}; free some space, then go on"
            ) from error
        self._note(entry)

    def drop_failed(self) -> None:
        """Forgets the answers that are errors, so that their requests are sent again. The file is replaced whole."""
        new = self.path.with_name(self.path.name + ".new")
        with new.open("wb") as file:
            file.writelines(text for text in self._texts() if not is_failed(json.loads(text)))
            file.flush()
            os.fsync(file.fileno())
        replaced, self._file = self._file, _open(new)
        new.replace(self.path)
        os.close(replaced)
        self.done.clear()
        self.num_failed = 0
        self._load()

    def _note(self, entry: Mapping[str, Any]) -> None:
        self.done.add(entry["custom_id"])
        self.num_failed += is_failed(entry)

    def _texts(self) -> Iterator[bytes]:
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            yield from file

    def _load(self) -> None:
        for number, text in enumerate(self._texts(), 1):
            entry = _entry(text)
            is_whole = text.endswith(b"\n")  # all but the last are
            if entry is not None:
                self._note(entry)
                if not is_whole:
                    os.write(self._file, b"\n")
            elif not is_whole:
                os.ftruncate(self._file, os.fstat(self._file).st_size - len(text))
            else:
                raise ConfigError(f"{self.path}: line {number} is no answer of a batch; give another file")


def is_failed(entry: Mapping[str, Any]) -> bool:
    response = entry.get("response")
    return not isinstance(response, Mapping) or response.get("status_code") != 200


def _open(path: Path) -> int:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; give another file") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise ConfigError(f"{path} is written by another `baton batch`; wait for its end, or stop it") from None
    return file


def _entry(text: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("custom_id"), str) else None


def _encoded(entry: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which only an escape can carry
        return json.dumps(entry).encode() + b"\n"
