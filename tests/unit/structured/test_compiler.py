"""Grammars are compiled in processes of their own: slow ones are ended, equal ones compiled once, streams go on."""

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from baton.errors import InvalidRequestError, OverloadedError
from cluster.config.schema import StructuredConfig
from cluster.ingress.structured import compile_process
from cluster.ingress.structured import compiler as module
from cluster.ingress.structured.compiler import GrammarCompiler
from cluster.ingress.structured.grammar import grammar_text
from cluster.ingress.structured.job import Job, load
from cluster.ingress.structured.output import Choice, JsonSchema, Lark, Regex, StructuredOutput, Tag, Tagged
from cluster.ingress.structured.vocabulary import Vocabulary

SLOW = JsonSchema({"type": "integer", "multipleOf": 123_456_789})  # minutes, were nobody to end it

Make = Callable[..., GrammarCompiler]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[GrammarCompiler] = []

    def make_one(**config: Any) -> GrammarCompiler:
        made.append(GrammarCompiler(StructuredConfig(**config)))
        return made[-1]

    yield make_one
    for one in made:
        one.close()


async def test_a_form_becomes_the_text_that_workers_follow(shared_compiler: GrammarCompiler) -> None:
    form = JsonSchema({"type": "object"})
    assert await shared_compiler.text(form) == grammar_text(form)
    thinking = await shared_compiler.text(form, reasoning_ends="</think>")
    assert thinking == grammar_text(form, reasoning_ends="</think>")


async def test_a_refusal_names_the_field_of_the_request(shared_compiler: GrammarCompiler) -> None:
    form = JsonSchema({"uniqueItems": True}, named="response_format.json_schema.schema")
    for _ in range(2):  # the second time it is known
        with pytest.raises(InvalidRequestError) as caught:
            await shared_compiler.text(form)
        assert caught.value.field == "response_format"
        assert caught.value.message.startswith("response_format.json_schema.schema has $.uniqueItems true")


async def test_a_slow_form_is_ended_while_everything_else_goes_on(make: Make) -> None:
    compiler = make(compile_timeout_s=0.5)
    await compiler.text(Regex("a"))  # the process is there
    num_turns = 0

    async def streams() -> None:
        nonlocal num_turns
        while True:
            await asyncio.sleep(0.001)
            num_turns += 1

    others = asyncio.create_task(streams())
    with pytest.raises(
        InvalidRequestError, match=r"takes longer than 0.5 s to compile \(structured.compile_timeout_s\)"
    ):
        await compiler.text(SLOW)
    others.cancel()
    assert num_turns > 20
    with pytest.raises(InvalidRequestError, match="takes longer"):
        await asyncio.wait_for(compiler.text(SLOW), 0.4)  # at once: it is not tried again
    assert await compiler.text(Regex("b"))


async def test_a_form_that_ends_its_processes_is_refused(make: Make) -> None:
    compiler = make(compile_timeout_s=60)
    processes = [compile_process.CompileProcess() for _ in range(2)]
    for process in processes:
        compiler._idle.put(process)
    asked = asyncio.create_task(compiler.text(SLOW))
    for process in processes:
        await asyncio.sleep(0.05)  # it may be killed before it has read the job as well
        process._process.kill()
        await asyncio.to_thread(process._process.wait)
    with pytest.raises(InvalidRequestError, match="takes too much memory to compile; simplify it"):
        await asked
    assert await compiler.text(Regex("b"))


async def test_a_form_whose_process_somebody_kills_is_compiled_by_another(make: Make) -> None:
    compiler = make(compile_timeout_s=60)
    process = compile_process.CompileProcess()
    compiler._idle.put(process)
    process._process.send_signal(signal.SIGSTOP)
    asked = asyncio.create_task(compiler.text(Regex("a")))
    await asyncio.sleep(0.05)
    process._process.kill()
    assert await asked == grammar_text(Regex("a"))


def test_a_process_whose_starter_is_gone_ends_in_the_middle_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_process, "ALARM_S", 0.2)
    process = compile_process.CompileProcess()
    with pytest.raises(TimeoutError):
        process.ask(Job(structured=SLOW).dump(), timeout_s=0.1)
    assert process._process.wait(timeout=30) == -signal.SIGALRM
    process.end()


async def test_a_process_that_ended_while_it_had_nothing_to_do_costs_no_form(make: Make) -> None:
    compiler = make(compile_timeout_s=60)
    await compiler.text(Regex("a"))
    process = compiler._idle.get_nowait()
    compiler._idle.put(process)
    process._process.kill()
    process._process.wait()
    assert await compiler.text(Regex("b"))


@pytest.mark.slow
async def test_a_form_that_takes_all_memory_is_refused_and_ends_its_process_alone(make: Make) -> None:
    compiler = make(compile_timeout_s=60)
    values = [{"type": "integer", "multipleOf": number} for number in (1_234_567, 2_345_678, 3_456_789)]
    with pytest.raises(InvalidRequestError, match="to compile"):
        await compiler.text(JsonSchema({"anyOf": values}))
    assert await compiler.text(Regex("b"))


async def test_equal_forms_are_compiled_once(make: Make) -> None:
    compiler = make()
    asked: list[str] = []
    ask = compiler._ask
    compiler._ask = lambda job: (asked.append(job), ask(job))[1]  # type: ignore[method-assign,func-returns-value]
    texts = await asyncio.gather(*(compiler.text(Regex("a+")) for _ in range(20)))
    assert len(set(texts)) == len(asked) == 1
    await compiler.text(Regex("a+"))
    assert len(asked) == 1


async def test_what_is_kept_is_bounded(make: Make) -> None:
    compiler = make(cache_bytes=2000)
    for number in range(20):
        await compiler.text(Regex(f"a{number}"))
    assert 0 < compiler._known_bytes <= 2000
    assert compiler._known_bytes == sum(one.num_bytes for one in compiler._known.values())


async def test_too_many_that_wait_are_shed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    compiler = make()
    first = asyncio.create_task(compiler.text(Regex("a")))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="1 grammars are waiting"):
        await compiler.text(Regex("b"))
    assert await first


async def test_a_form_over_the_size_is_refused_before_it_is_compiled(make: Make) -> None:
    compiler = make(max_size_bytes=1 << 10)
    said = "guided_json has {} bytes as JSON; this server takes at most 1024"
    for found, size in ("10\\d\\d", 1_000), ("over 1024", 1_000_000):
        with pytest.raises(InvalidRequestError, match=said.format(found)):
            await compiler.text(JsonSchema({"enum": ["x" * size]}, named="guided_json"))


async def test_a_form_nested_too_deeply_is_refused(make: Make) -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"not": schema}
    with pytest.raises(InvalidRequestError, match="is nested too deeply; nest less"):
        await make().text(JsonSchema(schema))


@pytest.mark.parametrize(
    "form",
    [
        JsonSchema({"a": [1, "é"]}, whitespace=False),
        Regex("\ud800"),
        Choice(("a", "b")),
        Lark("start: A"),
        Tagged((Tag("<f>", True, "</f>"),), ("<f",), required=True, at_most_one=True),
    ],
)
def test_a_job_is_the_same_at_the_other_end(form: StructuredOutput) -> None:
    words = Vocabulary(specials={"<f>": 7}, ends=frozenset({7}))
    job = Job(structured=form, reasoning_ends="</t>", reasoning_begins=None, vocabulary=words)
    assert load(job.dump()) == job
    assert json.loads(job.dump())
