"""The `models` of a config: what an entry has of its own and of the config, and what is refused."""

import pytest

from baton.errors import ConfigError
from cluster.config.entries import fleets_of, with_each, with_shared
from cluster.config.load import dump, load, loads
from cluster.config.schema import BatonConfig, HTTPConfig

SEVERAL = """
engine: {block_size: 32, memory: 64MiB}
dtype: float32
http: {port: 0}
models:
  v1: {model: demo, served_name: chat, weight: 90}
  v2: {model: demo-draft, served_name: chat, weight: 10, engine: {memory: 32MiB}, pools: {mixed: {workers: 2}}}
  tales: {load_format: fake}
"""


def test_an_entry_has_from_the_config_what_it_leaves_out() -> None:
    v1, v2, tales = (entry.config for entry in loads(SEVERAL).models.values())
    assert (v2.engine.block_size, v2.engine.memory_bytes, v1.engine.memory_bytes) == (32, 32 << 20, 64 << 20)
    assert (v2.dtype, v2.http.port, v2.pools.mixed.workers, v2.pools.decode.workers) == ("float32", 0, 2, 0)
    assert v1.pools.decode.workers == 1
    assert (v1.shown_name, tales.shown_name, tales.load_format) == ("chat", "tales", "fake")
    assert not v1.models


def test_several_models_are_written_as_they_are_read() -> None:
    config = loads(SEVERAL)
    assert loads(dump(config)) == config
    assert "models" not in dump(BatonConfig())
    assert loads("models:\nmodel: demo") == loads("model: demo")


def test_a_key_of_an_entry_is_set_by_its_path(tmp_path: object) -> None:
    path = tmp_path / "c.yaml"  # type: ignore[operator]
    path.write_text(SEVERAL)
    assert load(path, {"models.v2.weight": "3"}).models["v2"].weight == 3.0


def test_each_model_is_changed_and_an_error_names_its_entry() -> None:
    def refuse(config: BatonConfig) -> BatonConfig:
        raise ConfigError("model: no such thing")

    with pytest.raises(ConfigError, match=r"^models\.v1\.model: no such thing$"):
        with_each(loads(SEVERAL), refuse)
    moved = with_shared(loads(SEVERAL), http=HTTPConfig(port=5))
    assert {fleet.http.port for _, fleet in fleets_of(moved)} == {moved.http.port} == {5}
    assert [entry for entry, _ in fleets_of(loads("model: demo"))] == [""]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {}", "models: '{}' names no model; write an entry for each"),
        ("models: [a]", "names no model"),
        ("models: {a: demo}", r"models\.a: 'demo' is not a section; .*`models: {a: {model: demo}}`"),
        ("models: {a.b: }", "models: 'a.b' is no name for an entry; give up to 63 letters"),
        ("models: {'': }", "models: '' is no name"),
        ("models: {7: }", "models: '7' is no name"),
        ("models: {a: {wieght: 3}}", r"models\.a\.wieght: unknown key; did you mean `weight`\?"),
        ("models: {a: {http: {}}}", r"models\.a\.http: is of the whole cluster; set it beside `models`"),
        ("models: {a: {models: {}}}", r"models\.a\.models: is of the whole cluster"),
        ("models: {a: {weight: -1}}", r"models\.a\.weight: -1 is no weight; give a number of 0 to 1e\+06"),
        ("models: {a: {weight: .nan}}", r"models\.a\.weight: nan is no weight"),
        ("models: {a: {weight: true}}", r"models\.a\.weight: True is no weight"),
        ("models: {a: {weight: 0}, b: }", r"models\.a\.weight: every weight of a is 0"),
        ("model: demo\nmodels: {a: }", "model: is of one model, and `models` has several; move it into an entry"),
        ("served_name: x\nmodels: {a: }", "served_name: is of one model"),
        ("pools: {mixed: }\nmodels: {a: }", "pools: is of one model"),
        ("models: {a: {engine: {block_size: 0}}}", r"models\.a\.engine\.block_size: 0 is out of range"),
        ("engine: {block_siz: 1}\nmodels: {a: }", r"^engine\.block_siz: unknown key"),
        ("grpc: {port: 8000}\nmodels: {a: }", r"^grpc\.port: 8000 is http\.port too"),
        ("models: {a: {served_name: x@y}}", r"models\.a\.served_name: 'x@y' has an @"),
        ("models: {a: {adapters: {b: /x}}, b: }", r"models\.a\.adapters: b is a name of models\.b\.served_name too"),
        ("models: {a: {adapters: {b@b: /x}}, b: }", r"models\.a\.adapters: b@b is a name of models\.b too"),
        ('models: {a: {served_name: "x\\ny"}}', r"models\.a\.served_name: 'x.*y' is no name that clients could send"),
        ("models: {a: {served_name: ' x'}}", r"models\.a\.served_name: ' x' is no name"),
        ("models: {a: {adapters: {x: /x}}, b: {adapters: {x: /x}}}", r"models\.b\.adapters: x is a name of models\.a"),
        ("models: {a: {speculation: {method: draft}, model: /x}}", r"models\.a\.pools\.draft\.model: is left out"),
    ],
)
def test_a_bad_entry_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loads(text)


def test_versions_may_share_an_adapters_name() -> None:
    loads("adapters: {x: /x}\nmodels: {a: {served_name: m}, b: {served_name: m}}")
