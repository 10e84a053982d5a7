"""Workers and the adapters that requests name: who is refused, who is served on, when memory is freed."""

from collections.abc import Iterator

import pytest

from baton.errors import InvalidRequestError
from baton.v1 import worker_pb2
from tests.unit.engine.driver import OPEN, Driver, make_spec
from workers.adapters.adapter import AdapterSpec
from workers.spec import Role

SQL = AdapterSpec(name="sql", folder="/adapters/sql", content_hash="ab")
PROMPT = list(range(2, 40))


@pytest.fixture(autouse=True)
def _closed_links() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def named(driver: Driver, name: str = "sql", of: str = "ab") -> None:
    driver.adapter = worker_pb2.Adapter(name=name, hash=of)


def load(driver: Driver, adapter: AdapterSpec = SQL, engine: int = 0) -> None:
    future = driver.engines[engine].adapters.load(adapter)
    driver.step()
    assert future.result(0) is None


@pytest.mark.parametrize(
    ("name", "of", "words"),
    [
        ("poems", "ab", "worker mixed-0 has no adapter 'poems'; try another"),
        ("sql", "cd", "worker mixed-0 has other weights as adapter 'sql' (ab where cd is asked for); try another"),
    ],
)
def test_an_adapter_that_is_not_here_is_refused_by_name_and_may_be_elsewhere(name: str, of: str, words: str) -> None:
    driver = Driver([make_spec()])
    load(driver)
    named(driver, name, of)
    driver.submit("r", PROMPT)
    driver.run()
    [final] = driver.finals["r", 0]
    assert (final.error.code, final.error.message, final.error.retryable) == ("unavailable", words, True)


@pytest.mark.parametrize("other", [None, AdapterSpec(name="sql", folder="/x", content_hash="cd")])
def test_a_decode_worker_without_it_or_with_other_weights_refuses_the_hand_over_by_name(
    other: AdapterSpec | None,
) -> None:
    driver = Driver([make_spec(Role.PREFILL), make_spec(Role.DECODE)])
    load(driver)
    if other is not None:
        load(driver, other, engine=1)
    named(driver)
    driver.submit("r", PROMPT)
    driver.run()
    [final] = driver.finals["r", 0]
    assert final.error.retryable
    assert "worker decode-0 has " in final.error.message
    assert "adapter 'sql'" in final.error.message


def test_one_that_is_unloaded_in_use_serves_on_until_nobody_uses_it() -> None:
    driver = Driver([make_spec(max_batched_tokens=64)])
    adapters = driver.engines[0].adapters
    load(driver)
    assert [one.name for one in driver.engines[0].load.adapters] == ["sql"]
    named(driver)
    driver.submit("r", PROMPT, max_tokens=20)
    driver.step()
    retired, uses, removed = adapters.retire("sql"), adapters.num_uses("sql"), adapters.remove("sql")
    driver.step()
    assert (retired.result(0), uses.result(0), removed.result(0)) == (None, 1, False)
    assert driver.engines[0].load.adapters == ()
    driver.submit("late", PROMPT[:5])  # was on its way
    again = adapters.load(AdapterSpec(name="sql", folder="/x", content_hash="cd"))
    driver.step()
    with pytest.raises(InvalidRequestError, match=r"'sql' is being unloaded, and 2 answers are still written with it"):
        again.result(0)
    driver.run()
    assert (len(driver.answer("r")), len(driver.answer("late"))) == (20, 8)
    removed = adapters.remove("sql")
    driver.step()
    assert removed.result(0)
    driver.submit("gone", PROMPT)
    driver.run()
    assert driver.finals["gone", 0][0].error.retryable


def test_loading_the_same_again_shows_it_again_and_other_weights_take_the_place_of_idle_ones() -> None:
    driver = Driver([make_spec()])
    load(driver)
    driver.engines[0].adapters.retire("sql")
    load(driver)
    assert [one.content_hash for one in driver.engines[0].load.adapters] == ["ab"]
    load(driver, AdapterSpec(name="sql", folder="/x", content_hash="cd"))
    assert [one.content_hash for one in driver.engines[0].load.adapters] == ["cd"]
    load(driver, AdapterSpec(name="poems", folder="/p", content_hash="ef"))
    ids = [held.adapter_id for held in driver.engines[0].serving.adapters.held.values()]
    assert sorted(ids) == [1, 2]


def test_prefixes_are_shared_by_requests_with_the_same_adapter_alone() -> None:
    driver = Driver([make_spec()])
    load(driver)
    load(driver, AdapterSpec(name="poems", folder="/p", content_hash="ef"))
    stats, hits = driver.engines[0].stats, []
    for index, name in enumerate(("", "sql", "poems", "sql")):
        if name:
            named(driver, name, "ab" if name == "sql" else "ef")
        driver.submit(str(index), PROMPT)
        driver.run()
        hits.append(stats.num_prefix_hit_tokens)
    assert hits == [0, 0, 0, 36]
