"""Lines of the log: their fields, their ids, and a disk that is slow."""

import io
import json
import logging
import threading
import time
from collections.abc import Iterator

import pytest

from cluster.logs.fields import log_fields, taken_apart
from cluster.logs.formatters import formatter
from cluster.logs.queued import QueuedHandler
from cluster.logs.setup import FORMAT_VARIABLE, set_up
from cluster.logs.subject import Subject, set_subject


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("cluster.x", logging.INFO, __file__, 1, message, args, None)


@pytest.fixture
def subject() -> Iterator[None]:
    set_subject(Subject("mine", "0af7"))
    yield
    set_subject(None)


@pytest.mark.parametrize(
    ("message", "args", "told"),
    [
        ("worker up worker_id=%s port=%d", ("decode-0", 5), ("worker up", {"worker_id": "decode-0", "port": 5})),
        ("took %.1f s of=%s", (1.25, None), ("took 1.2 s", {"of": None})),
        ("at 100%% of=%.2f", (0.5,), ("at 100%", {"of": 0.5})),
        ("error=%r", (ValueError("x"),), ("", {"error": "ValueError('x')"})),
        ("no fields here", (), ("no fields here", {})),
        ("a=1 and b=%s", (2,), ("a=1 and", {"b": 2})),
    ],
)
def test_a_line_is_taken_apart_into_message_and_fields(message: str, args: tuple[object, ...], told: object) -> None:
    assert taken_apart(record(message, *args)) == told


def test_json_has_one_object_a_line_with_the_ids_of_its_request(subject: None) -> None:
    line = formatter("json").format(record("went\nwrong code=%s level=%s", "a\nb", 3))
    assert "\n" not in line
    read = json.loads(line)
    assert read.pop("ts").endswith("Z")
    assert read == {
        "level": "info",
        "logger": "cluster.x",
        "message": "went wrong",
        "request_id": "mine",
        "trace_id": "0af7",
        "code": "a\nb",
        "level_": 3,
    }


def test_an_exception_is_inside_its_line() -> None:
    try:
        raise ValueError("boom")
    except ValueError as error:
        one = record("failed")
        one.exc_info = (ValueError, error, error.__traceback__)
    read = json.loads(formatter("json").format(one))
    assert "ValueError: boom" in read["exception"]


def test_text_has_the_ids_once(subject: None) -> None:
    assert formatter("text").format(record("a x=%s", 1)).endswith("cluster.x a x=1 request_id=mine trace_id=0af7")
    assert formatter("text").format(record("a request_id=%s", "other")).endswith("a request_id=other trace_id=0af7")


def test_fields_that_are_none_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("tests.fields")
    with caplog.at_level(logging.INFO, logger=logger.name):
        log_fields(logger, logging.INFO, "100% done", {"a": 1, "b": None, "c": "x"})
    (one,) = caplog.records
    assert one.getMessage() == "100% done a=1 c=x"
    assert taken_apart(one) == ("100% done", {"a": 1, "c": "x"})


def test_a_process_takes_the_format_that_it_is_told_and_may_be_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    root, stream = logging.getLogger(), io.StringIO()
    before, level = list(root.handlers), root.level
    try:
        monkeypatch.setenv(FORMAT_VARIABLE, "json")
        set_up(stream=stream)
        logging.getLogger("tests.setup").info("one n=%d", 1)
        set_up("text", stream=stream)
        logging.getLogger("tests.setup").info("two n=%d", 2)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    first, second = stream.getvalue().splitlines()
    assert json.loads(first)["n"] == 1
    assert second.endswith("INFO tests.setup two n=2")


class SlowDisk(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()

    def write(self, text: str) -> int:
        self.may.wait(10)
        return super().write(text)


def test_a_slow_disk_costs_lines_and_nobody_waits() -> None:
    disk = SlowDisk()
    handler = QueuedHandler(disk, max_waiting=4)
    num_dropped = 0

    def dropped() -> None:
        nonlocal num_dropped
        num_dropped += 1

    handler.dropped = dropped
    started_s = time.monotonic()
    for number in range(20):
        handler.handle(record("n=%d", number))
    assert time.monotonic() - started_s < 5
    assert num_dropped >= 15
    disk.may.set()
    handler.close()
    handler.close()
    assert len(disk.getvalue().splitlines()) == 20 - num_dropped


def test_what_a_client_wrote_makes_no_line_of_its_own(subject: None) -> None:
    line = formatter("text").format(record("answered path=%s", "/x\n2026 INFO\r\x1b[2K\u2028 é"))
    assert line.count("\n") == 0
    assert r"/x\n2026 INFO\r\x1b[2K\u2028 é request_id=mine" in line
