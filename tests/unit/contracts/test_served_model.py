"""When a replica that runs has to be told something new of a model."""

from dataclasses import replace

from cluster.config.schema import BatonConfig, EngineConfig, RouterConfig, StructuredConfig
from cluster.contracts.served_model import ServedModel

CONFIG = BatonConfig(model="demo")


def row(config: BatonConfig) -> ServedModel:
    return ServedModel(entry="", controller="c", config=config, model_path="/m")


def test_what_all_models_share_and_what_workers_are_told_makes_no_other_model() -> None:
    for changed in (
        replace(CONFIG, structured=StructuredConfig(compile_timeout_s=3.0)),
        replace(CONFIG, engine=EngineConfig(max_batched_tokens=128)),
    ):
        assert row(CONFIG).is_as(row(changed))
    assert not row(CONFIG).is_as(row(replace(CONFIG, router=RouterConfig(max_queue=7))))
