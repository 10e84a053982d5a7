"""The table of models: weights that are set live, versions that leave, who keeps whose workers, one status of all."""

from typing import Any

import pytest

from baton.errors import ConfigError
from cluster.config.load import loads
from cluster.config.schema import BatonConfig
from cluster.contracts.served_model import ModelTable, ServedModel
from cluster.fleet import beside, model_book
from cluster.fleet.beside import Beside, Seat, Seats, summed
from cluster.fleet.merged_status import SILENT, merged
from cluster.fleet.model_book import ModelBook
from cluster.fleet.plan import NeedsDownError
from cluster.fleet.status import FleetStatus, PoolStatus
from cluster.local.fleets import homes_of

FIRST = "baton-controller"


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> dict[Any, bytes]:
    """Ray's key-value store."""
    kept: dict[Any, bytes] = {}

    def put(key: bytes, value: bytes, *, overwrite: bool, namespace: bytes) -> None:
        kept[namespace, key] = value

    for module in (model_book, beside):
        monkeypatch.setattr(module, "_internal_kv_put", put)
        monkeypatch.setattr(module, "_internal_kv_get", lambda key, namespace: kept.get((namespace, key)))
        monkeypatch.setattr(module, "_internal_kv_del", lambda key, namespace: kept.pop((namespace, key), None))
    monkeypatch.setattr(
        beside,
        "_internal_kv_list",
        lambda prefix, namespace: [key for space, key in kept if space == namespace and key.startswith(prefix)],
    )
    return kept


def row(entry: str, weight: float = 1.0, *, served: str = "chat", model: str = "demo", home: str = "") -> ServedModel:
    config = BatonConfig(model=model, served_name=served)
    home = home or f"{FIRST}.{entry}"
    return ServedModel(entry=entry, controller=home, config=config, model_path="/m", weight=weight, file_weight=weight)


def weights(book: ModelBook) -> dict[str, float]:
    return {one.entry: one.weight for one in book.table.staying()}


def test_live_weights_outlive_the_controller_and_a_config_that_says_the_same() -> None:
    book = ModelBook("n")
    book.put([row("v1", 9), row("v2")])
    book.weigh("chat", {"v1": 0, "v2": 5})
    assert weights(ModelBook("n")) == weights(book) == {"v1": 0, "v2": 5}
    book.put([row("v1", 9), row("v2")])
    assert weights(book) == {"v1": 0, "v2": 5}
    book.put([row("v1", 9), row("v2", 2)])
    assert weights(book) == {"v1": 0, "v2": 2}
    book.weigh("chat", None)
    assert weights(book) == {"v1": 9, "v2": 2}


def test_the_last_version_has_a_weight_whatever_was_set_live() -> None:
    book = ModelBook("n")
    book.put([row("v1"), row("v2")])
    book.weigh("chat", {"v1": 0})
    book.put([row("v1")])
    assert weights(book) == {"v1": 1}


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("other", {"v1": 1}, "other: is not served; served here: chat"),
        ("chat", {"v9": 1}, "v9: is no version of chat; its versions: v1, v2"),
        ("chat", {"v1": -1}, "chat v1: -1 is no weight"),
        ("chat", {"v1": float("inf")}, "chat v1: inf is no weight"),
        ("chat", {"v1": 0, "v2": 0}, "chat: every weight is 0, nobody would answer"),
    ],
)
def test_bad_weights_change_nothing(name: str, given: dict[str, float], said: str) -> None:
    book = ModelBook("n")
    book.put([row("v1"), row("v2")])
    table = book.table
    with pytest.raises(ConfigError, match=said):
        book.weigh(name, given)
    assert book.table is table


def test_a_version_that_is_gone_leaves_until_it_is_forgotten() -> None:
    book = ModelBook("n")
    book.put([row("v1"), row("v2")])
    book.put([row("v2")])
    assert [(one.entry, one.leaving) for one in book.table.models] == [("v2", False), ("v1", True)]
    book.forget("v2")  # it stays: it does not leave
    book.forget("v1")
    assert [one.entry for one in book.table.models] == ["v2"]


def test_replicas_say_what_they_follow_and_what_is_open() -> None:
    book = ModelBook("n")
    book.put([row("v1")])
    assert book.not_served(["v1"], 0.0) == ["v1"]
    assert book.hear("a", 0, {}, 0.0) is book.table
    assert not book.is_followed(0.0)
    assert book.hear("a", book.table.version, {"v1": 2}, 0.5) is None
    assert book.hear("b", book.table.version, {}, 0.5) is None
    assert (book.is_followed(0.5), book.num_open("v1", 0.5), book.not_served(["v1"], 0.5)) == (True, 2, ["v1"])
    assert book.num_open("v1", 9.0) == 0  # replicas that are gone have nothing open


def homes(text: str, *rows: ServedModel) -> dict[str, str]:
    return dict(homes_of(loads(text), ModelTable(version=1, models=rows)))


def test_each_model_has_a_controller_and_the_first_of_a_new_cluster_the_first() -> None:
    two = "models: {v1: {model: demo}, v2: {model: demo}}"
    assert homes("model: demo") == {"": FIRST}
    assert homes(two) == {"v1": FIRST, "v2": f"{FIRST}.v2"}
    assert homes(two, row("v1", home=FIRST)) == {"v1": FIRST, "v2": f"{FIRST}.v2"}
    assert homes("models: {v2: {model: demo}}", row("v1", home=FIRST), row("v2")) == {"v2": f"{FIRST}.v2"}


def test_one_model_becomes_a_version_beside_another_and_one_again() -> None:
    two = "models: {v1: {model: x, served_name: chat}, v2: {model: demo, served_name: chat}}"
    alone = row("", home=FIRST)
    assert homes(two, alone) == {"v1": f"{FIRST}.v1", "v2": FIRST}
    assert homes("{model: demo, served_name: chat}", row("v2", home=FIRST), row("v1")) == {"": FIRST}
    with pytest.raises(NeedsDownError, match="model: x cannot take the place of `models` while v2 runs"):
        homes("model: x", row("v2", home=FIRST))


def test_one_status_tells_of_all_models() -> None:
    pool = PoolStatus(role="decode", num_desired=1, num_ready=1, waits="pools.decode: 1 of 1 worker waits for {GPU: 1}")
    fleet = FleetStatus(ready=True, config="", model_path="", num_ingress_replicas=2, pools=(pool,), workers=())
    rows = {one.entry: one for one in (row("v1", 3), row("v2"))}
    status = merged(rows, {"v1": fleet, "v2": None}, {"v1": 4})
    v1, v2 = status.models
    assert (v1.share, v1.ready, v1.num_open, v2.share, v2.ready, v2.error) == (0.75, True, 4, 0.25, False, SILENT)
    assert (status.ready, status.num_ingress_replicas) == (False, 2)
    assert status.pools[0].waits.startswith("models.v1.pools.decode: 1 of 1 worker waits")
    assert status.pools[0].name == "v1.decode"
    assert loads(status.config).models["v1"].weight == 3


def test_models_know_what_others_hold_of_the_nodes() -> None:
    v1, v2, elsewhere = Beside("baton"), Beside("baton.v2"), Beside("test.v2")
    seat = Seat(node_id="n", cores=(0, 1), resources={"GPU": 0.5})
    v1.tell(Seats(num_ranks=2, seats=(seat,)))
    elsewhere.tell(Seats(num_ranks=9))
    assert v2.others() == {"baton": Seats(num_ranks=2, seats=(seat,))}
    assert not v1.others()
    known = summed(v2.others().values())
    assert known.taken()[0].rank.cores == (0, 1)
    assert known.needs()[known.taken()[0].role].resources == {"GPU": 0.5}
    v1.forget()
    assert not v2.others()
