"""A worker process is told its whole spec."""

import dataclasses

from tests.unit.engine.driver import make_spec
from workers.adapters.adapter import AdapterSpec
from workers.spec import GangSpec, KVSpec, Role, SpeculationSpec
from workers.spec_line import dump, parse


def test_a_spec_arrives_as_it_was_with_all_its_sections() -> None:
    spec = dataclasses.replace(
        make_spec(Role.DECODE, state_cache_spacing=64),
        kv=KVSpec(transport="grpc"),
        speculation=SpeculationSpec(method="ngram", max_tokens=3),
        gang=GangSpec(tensor_parallel=2, rank=1),
        cores=(3, 5),
        adapters=(AdapterSpec(name="one", folder="/adapters/one", content_hash="ab"),),
    )
    told, incarnation = parse(dump(spec, "abcd"))
    assert (told, incarnation) == (spec, "abcd")
    for section in dataclasses.fields(spec):
        assert type(getattr(told, section.name)) is type(getattr(spec, section.name)), section.name
