"""What README.md says of the configuration is what the loader takes."""

import pytest

from cluster.config.load import flatten, loads
from cluster.config.schema import BatonConfig
from tests.cluster.readme import README, blocks


def test_the_readmes_configuration_is_the_default_one() -> None:
    (text,) = blocks("yaml")
    assert loads(text) == BatonConfig()


@pytest.mark.parametrize("path", ["ARCHITECTURE.md", "CHANGELOG.md", "docs/api.md", "docs/kv_transfer.md", "bench"])
def test_what_the_readme_points_to_is_there(path: str) -> None:
    assert f"({path})" in README.read_text(encoding="utf-8")
    assert (README.parent / path).exists()


def test_every_key_of_the_readmes_configuration_is_known() -> None:
    (text,) = blocks("yaml")
    known = {key.partition(".")[0] for key in flatten(BatonConfig())}
    named = {line.partition(":")[0] for line in text.splitlines() if line and not line.startswith((" ", "#"))}
    assert named <= known
