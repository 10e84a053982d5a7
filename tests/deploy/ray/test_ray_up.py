"""The demonstration of deploy/ray/local.yaml, step by step: each checks what it says."""

from collections.abc import Callable, Iterator

import pytest

from tools.demo_cluster.hosts import Hosts, missing
from tools.demo_cluster.ray_up import NAMES, Cluster
from tools.demo_cluster.story import Story
from workers.model.registry import BUNDLED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=f"no hosts here: {missing()}"),
    pytest.mark.skipif(not (BUNDLED / "demo" / "model.safetensors").is_file(), reason="the demo model is not there"),
]


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    hosts = Hosts(NAMES)
    try:
        hosts.start()
        yield Story(Cluster(hosts))
    finally:
        hosts.end()


STEPS: list[Callable[[Story], Iterator[str]]] = [
    Story.alone,
    Story.ray_up,
    Story.baton_up,
    Story.job,
    Story.answers,
    Story.limited,
    Story.cut,
    Story.down,
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_step_of_the_demonstration_finds_what_it_should(story: Story, step: Callable[[Story], Iterator[str]]) -> None:
    assert list(step(story))
