from dataclasses import replace
from pathlib import Path

import pytest

from cluster.fleet.owner import Owner


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Owner:
    monkeypatch.setenv("BATON_HOME", str(tmp_path))
    return Owner.here("the secret")


def test_a_home_that_lost_its_secret_or_its_machines_name_owns_its_cluster_still(owner: Owner) -> None:
    assert owner.is_same(Owner.here("another secret"))
    assert owner.is_same(replace(owner, machine="renamed", home="/moved"))


def test_another_home_on_the_same_machine_owns_nothing_of_it(owner: Owner) -> None:
    assert not owner.is_same(replace(Owner.here("another secret"), home="/elsewhere"))


def test_the_secret_is_not_told(owner: Owner) -> None:
    assert "the secret" not in repr(owner)
