"""Ingress replicas are known by what they ask for."""

from cluster.fleet.ingresses import INGRESS_GONE_S, INGRESS_TIMEOUT_S, Ingresses


def test_replicas_that_asked_of_late_live_on_their_nodes_and_look_for_models() -> None:
    seen = Ingresses()
    assert seen.all_ask_for("new", 0.0), "nobody has to turn to it"
    seen.ask("a", "n1", "old", 0.0)
    seen.ask("b", "n2", "old", 0.0)
    seen.ask("a", "n1", "new", 1.0)
    assert sorted(seen.nodes(1.0)) == ["n1", "n2"]
    assert not seen.all_ask_for("new", 1.0)
    seen.ask("b", "n2", "new", 2.0)
    assert seen.all_ask_for("new", 2.0)
    assert seen.nodes(2.0 + INGRESS_TIMEOUT_S) == []


def test_a_silent_replica_keeps_its_node_occupied_for_a_while() -> None:
    seen = Ingresses()
    seen.ask("a", "n1", "", 0.0)
    assert seen.nodes(INGRESS_TIMEOUT_S) == []
    assert seen.occupied(INGRESS_TIMEOUT_S) == ["n1"]
    assert seen.occupied(INGRESS_GONE_S) == []
