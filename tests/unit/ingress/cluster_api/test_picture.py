"""Workers of several fleets in one picture: each once, in the order in which requests go."""

from collections.abc import Sequence

from cluster.ingress.cluster_api.picture import FleetLook, picture
from cluster.router.workers import WorkerView
from tests.unit.ingress.cluster_api.fleets import GOOD, worker
from workers.spec import Role


def look(model: str, views: Sequence[WorkerView]) -> FleetLook:
    return FleetLook(model=model, views=views, news=None, age_s=None, error="", events=(), handed={})


def keys(*looks: FleetLook) -> list[str]:
    return [row["key"] for row in picture(1, 0.0, looks, GOOD)["workers"]]


def test_workers_of_each_model_stand_together_prefill_first_and_a_slots_other_side_behind_it() -> None:
    first = ("decode-10", "decode-2", "decode-2b", "prefill-0")
    second = ("v2.decode-0", "v2.prefill-0")
    looks = [look(model, [worker(one) for one in ids]) for model, ids in (("chat@v1", first), ("chat@v2", second))]
    assert keys(*looks) == ["prefill-0", "decode-2", "decode-2b", "decode-10", "v2.prefill-0", "v2.decode-0"]


def test_keys_differ_where_two_fleets_name_a_worker_alike() -> None:
    assert keys(look("a", [worker("decode-0")]), look("b", [worker("decode-0")])) == ["decode-0", "b/decode-0"]


def test_a_worker_has_the_role_that_it_tells_of_itself() -> None:
    views = [worker("decode-1", Role.PREFILL)]
    (row,) = picture(1, 0.0, [look("a", views)], GOOD)["workers"]
    assert (row["id"], row["role"]) == ("decode-1", "prefill")
