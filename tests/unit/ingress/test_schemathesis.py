"""Bodies and paths drawn from the API's own description, good ones and bad ones: none is a fault of ours, or hangs.

    BATON_SCHEMATHESIS_URL=http://127.0.0.1:8000 pytest tests/unit/ingress/test_schemathesis.py -m slow

asks a server that runs; without it, the app is asked in this process.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from cluster.ingress.http_api import build_app
from cluster.ingress.openapi.operations import OPERATIONS
from tests.unit.ingress.fakes import demo_service

schemathesis = pytest.importorskip("schemathesis", reason="the extra `clients` is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

NUM_REQUESTS = int(os.environ.get("BATON_SCHEMATHESIS_REQUESTS", "12000"))  # of all paths together
SHARES = {  # a chat's takes longest to draw
    "/v1/completions": 0.3,
    "/v1/chat/completions": 0.08,
    "/v1/responses": 0.12,
    "/v1/messages": 0.12,
    "/tokenize": 0.14,
    "/detokenize": 0.14,
}
URL = os.environ.get("BATON_SCHEMATHESIS_URL")
MAX_S = 60.0  # of one answer, on a machine that does much else


@pytest.fixture(scope="module")
def schema() -> Iterator[Any]:
    if URL:
        yield schemathesis.openapi.from_url(f"{URL}/openapi.json")
        return
    service, _ = demo_service()
    yield schemathesis.openapi.from_asgi("/openapi.json", build_app(service))


def ways() -> Iterator[tuple[str, str, str]]:
    """Path, method, and whether what is sent fits the description; without a body nothing misses it."""
    for one in OPERATIONS:
        if one.answer == "text/event-stream":
            continue  # it never ends
        for method in one.methods:
            yield one.path, method, "positive"
            if one.body is not None:
                yield one.path, method, "negative"


def test_the_shares_leave_some_for_every_path() -> None:
    assert SHARES.keys() <= {one.path for one in OPERATIONS}
    assert sum(SHARES.values()) < 1


@pytest.mark.parametrize(("path", "method", "mode"), list(ways()))
def test_requests_drawn_from_the_description_are_answered_as_it_says(
    schema: Any, path: str, method: str, mode: str
) -> None:
    operation = schema[path][method.upper()]
    others = sum(len(one.methods) for one in OPERATIONS if one.path not in SHARES)
    share = SHARES.get(path, (1 - sum(SHARES.values())) / others)
    strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

    @settings(
        max_examples=max(1, int(NUM_REQUESTS * share / 2)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        derandomize=True,
        database=None,
    )
    @given(case=strategy)
    def check(case: Any) -> None:
        begun_s = time.monotonic()
        # A schema cannot say what depends on the model: ids of the vocabulary, what fits behind a prompt.
        excluded = [schemathesis.checks.positive_data_acceptance]
        case.call_and_validate(excluded_checks=excluded, **({"timeout": MAX_S} if URL else {}))
        assert time.monotonic() - begun_s < MAX_S

    check()
