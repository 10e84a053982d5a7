from collections.abc import Iterator

import pytest
import torch

from tests.unit.parallel.gangs import RankProcesses


@pytest.fixture(scope="session")
def ranks() -> Iterator[RankProcesses]:
    """Processes for the ranks of gangs, used again by every test."""
    torch.set_num_threads(1)
    made = RankProcesses()
    yield made
    made.close()


@pytest.fixture(scope="session")
def other_ranks() -> Iterator[RankProcesses]:
    """For a second gang at the same time."""
    torch.set_num_threads(1)
    made = RankProcesses()
    yield made
    made.close()
