"""The tests of engines once more, with steps that are launched before the one before has landed."""

from collections.abc import Iterator

import pytest

from tests.unit.engine.driver import RUNNERS
from tests.unit.engine.late import LateRunner


@pytest.fixture(autouse=True, params=["late", "early"])
def steps_are_launched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Late: the device is as slow as it may be; early: as fast."""
    before = RUNNERS.wrap
    RUNNERS.wrap = lambda runner: LateRunner(runner, is_late=request.param == "late")
    yield
    RUNNERS.wrap = before
