"""What a pool may ask of its nodes, as Ray takes it."""

import pytest
from ray._private.label_utils import validate_label_selector

from baton.errors import ConfigError
from cluster.config.load import dump, flatten, loads
from cluster.config.node_terms import selects
from cluster.config.schema import PoolConfig

POOL = "pools: {{decode: {{workers: 2, {key}: {value}}}}}"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("resources", "[baton]", r"pools.decode.resources: \['baton'\] is no map of Ray resources; e.g. "),
        ("resources", "{GPU: 1}", "pools.decode.resources.GPU: is Ray's own"),
        ("resources", "{'node:10.0.0.1': 1}", "pools.decode.resources.node:10.0.0.1: is Ray's own"),
        ("resources", "{'a b': 1}", "pools.decode.resources: 'a b' is no name of a Ray resource"),
        ("resources", "{baton_decode: 0}", "pools.decode.resources.baton_decode: 0 is no amount; give a number from"),
        ("resources", "{baton_decode: yes}", "pools.decode.resources.baton_decode: True is no amount"),
        ("resources", "{baton_decode: .inf}", "pools.decode.resources.baton_decode: inf is no amount"),
        ("labels", "decode", "pools.decode.labels: 'decode' is no map of node labels; e.g. "),
        ("labels", "{-a: b}", "pools.decode.labels: '-a' is no label key"),
        ("labels", "{zone: 3}", "pools.decode.labels.zone: 3 selects no label value; give a value, !value, in"),
        ("labels", "{zone: ''}", "pools.decode.labels.zone: '' selects no label value"),
        ("labels", "{zone: 'in()'}", r"pools.decode.labels.zone: 'in\(\)' selects no label value"),
    ],
)
def test_what_ray_would_not_take_is_refused_by_name(key: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loads(POOL.format(key=key, value=value))


@pytest.mark.parametrize("pool", ["prefill", "decode", "draft"])
def test_each_pool_may_ask_and_its_config_survives_being_written(pool: str) -> None:
    text = "{workers: 1, resources: {baton_x: 1, half: 0.5}, labels: {baton.dev/pool: x, zone: '!in(a, b)'}}"
    config = loads(f"model: demo\npools: {{{pool}: {text}}}")
    found = getattr(config.pools, pool)
    assert found.resources == {"baton_x": 1.0, "half": 0.5}
    assert found.is_choosy
    assert validate_label_selector(found.labels) is None
    assert loads(dump(config)) == config
    assert flatten(config)[f"pools.{pool}.resources"] == found.resources
    assert not PoolConfig(workers=1).is_choosy


@pytest.mark.parametrize(
    ("selector", "value", "selected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", None, False),
        ("!a", "b", True),
        ("!a", "a", False),
        ("!a", None, True),
        ("in(a, b)", "b", True),
        ("in(a,b)", "c", False),
        ("!in(a, b)", "c", True),
        ("!in(a, b)", "b", False),
    ],
)
def test_labels_select_as_rays_do(selector: str, value: str | None, selected: bool) -> None:
    assert selects({"zone": selector}, {} if value is None else {"zone": value}) is selected
