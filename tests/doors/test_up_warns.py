"""What `baton up` says of doors that stand open, and refuses before anything starts."""

from pathlib import Path

import pytest

from baton.errors import ConfigError
from cluster.config.load import from_tree
from cluster.config.schema import BatonConfig
from cluster.fleet.nodes import Node
from cluster.local.doors_preflight import check_doors, door_warnings, doors_error, file_warnings, with_doors
from tests.doors.certificates import issue
from tests.doors.keyed import add_key


def config(tmp_path: Path, host: str, *, tls: bool = False, keys: bool = False) -> BatonConfig:
    tree: dict[str, object] = {"http": {"host": host}}
    if tls:
        made = issue(tmp_path).tls()
        tree["tls"] = {"certificate": made.certificate, "key": made.key}
    if keys:
        add_key(tmp_path / "keys.yaml", "alice")
        tree["auth"] = {"keys_file": str(tmp_path / "keys.yaml")}
    return from_tree(tree)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_warning(tmp_path: Path, host: str) -> None:
    assert list(door_warnings(config(tmp_path, host))) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_door_that_others_reach_without_keys_or_tls_is_warned_of(tmp_path: Path, host: str) -> None:
    open_, plain = door_warnings(config(tmp_path, host))
    assert open_.startswith(f"http.host: {host} lets EVERYBODY")
    assert "prompts and answers in plain text" in plain
    (keys_in_plain,) = door_warnings(config(tmp_path, host, keys=True))
    assert "API keys, prompts and answers in plain text" in keys_in_plain
    (tls_alone,) = door_warnings(config(tmp_path, host, tls=True))
    assert "EVERYBODY" in tls_alone
    (tmp_path / "keys.yaml").unlink()
    assert list(door_warnings(config(tmp_path, host, tls=True, keys=True))) == []


def test_files_that_work_but_not_well_are_warned_of(tmp_path: Path) -> None:
    guarded = config(tmp_path, "127.0.0.1", tls=True, keys=True)
    check_doors(guarded)
    Path(guarded.tls.key).chmod(0o644)
    (tmp_path / "keys.yaml").write_text("keys: []\n")
    ends, readable, empty = file_warnings(guarded)
    assert "expires on" in ends  # tests' certificates live a day
    assert "chmod o=" in readable
    assert "has no keys: every request is refused" in empty


def test_files_that_cannot_work_are_refused(tmp_path: Path) -> None:
    guarded = config(tmp_path, "127.0.0.1", tls=True, keys=True)
    (tmp_path / "keys.yaml").write_text("keys: [{name: alice}]\n")
    with pytest.raises(ConfigError, match=r"keys\[0\].sha256"):
        check_doors(guarded)
    Path(guarded.tls.certificate).unlink()
    assert doors_error(guarded).startswith("tls.certificate: ")


@pytest.mark.parametrize(
    ("http", "found"),
    [
        ({}, ["head"]),
        ({"replicas": 2}, ["head", "door", "decode"]),
        ({"replicas": 2, "node_resource": "baton_ingress"}, ["head", "door"]),
    ],
)
def test_nodes_without_a_door_need_no_certificates_and_keys(http: dict[str, object], found: list[str]) -> None:
    resources = {"head": {"CPU": 1.0}, "door": {"baton_ingress": 1.0}, "decode": {"baton_decode": 1.0}}
    around = [Node(node_id=name, address=name, num_gpus=0, resources=has) for name, has in resources.items()]
    assert [node.address for node in with_doors(from_tree({"http": http}), around)] == found
