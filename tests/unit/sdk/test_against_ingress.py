"""The SDK and the load generator against the ingress's own routes: both sides must mean the same."""

from collections.abc import AsyncIterator

import grpc
import pytest

import baton
from baton.v1.inference_pb2_grpc import add_InferenceServicer_to_server
from cluster.ingress.http_api import build_app
from cluster.load.options import LoadOptions
from cluster.load.record import Record
from cluster.load.session import Measurement, Progress, measure
from tests.unit.ingress.fakes import FakeDispatcher, demo_service, demo_tokenizer, serving
from tests.unit.ingress.servicer import Servicer

ANSWER = "The best of times 0."


@pytest.fixture
async def addresses() -> AsyncIterator[tuple[FakeDispatcher, str, str]]:
    """The dispatcher behind both, the HTTP URL, and the gRPC target."""
    service, dispatcher = demo_service({"temperature": 0.7, "min_p": 0.05})
    server = grpc.aio.server()
    add_InferenceServicer_to_server(Servicer(service), server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with serving(build_app(service)) as url:
        yield dispatcher, url, target
    await server.stop(None)


async def test_the_sdk_reads_what_the_ingress_writes(addresses: tuple[FakeDispatcher, str, str]) -> None:
    _, _, target = addresses
    async with baton.AsyncClient(target, timeout_s=20) as client:
        completion = await client.generate("Once", n=2, logprobs=1)
        assert [choice.text for choice in completion.choices] == [ANSWER, ANSWER.replace("0", "1")]
        assert completion.choices[0].finish_reason == "stop"
        assert completion.choices[0].logprobs is not None
        assert completion.usage is not None
        assert completion.usage.completion_tokens == sum(len(choice.token_ids) for choice in completion.choices)
        assert await client.detokenize(await client.tokenize("Once upon")) == "Once upon"
        expected = baton.Model(
            id="demo",
            max_model_len=2048,
            vocab_size=demo_tokenizer().vocab_size,
            generation_defaults={
                "temperature": 0.7,
                "top_p": 1.0,
                "top_k": 0,
                "min_p": 0.05,
                "repetition_penalty": 1.0,
            },
            chat_templates=("default",),
        )
        assert await client.models() == [expected]


async def test_the_sdk_names_a_chat_template(addresses: tuple[FakeDispatcher, str, str]) -> None:
    messages: list[baton.Message] = [{"role": "user", "content": "hi"}]
    async with baton.AsyncClient(addresses[2], timeout_s=20, max_retries=0) as client:
        assert (await client.generate(messages, chat_template="default")).choices[0].text == ANSWER
        assert await client.tokenize(messages, chat_template="default") == await client.tokenize(messages)
        with pytest.raises(baton.InvalidRequestError, match='chat_template is "tools"; it names one of') as refused:
            await client.generate(messages, chat_template="tools")
        assert refused.value.field == "chat_template"


async def test_a_stop_string_is_named_by_the_ingress(addresses: tuple[FakeDispatcher, str, str]) -> None:
    async with baton.AsyncClient(addresses[2], timeout_s=20) as client:
        choice = (await client.generate("Once", stop="times")).choices[0]
    assert (choice.text, choice.finish_reason, choice.stop_reason) == ("The best of ", "stop", "times")


async def test_the_ingresss_errors_arrive_with_class_field_and_pause(
    addresses: tuple[FakeDispatcher, str, str],
) -> None:
    dispatcher, _, target = addresses
    async with baton.AsyncClient(target, timeout_s=20, max_retries=0) as client:
        with pytest.raises(baton.InvalidRequestError, match="temperature is -1") as refused:
            await client.generate("Once", temperature=-1)
        assert refused.value.field == "temperature"
        with pytest.raises(baton.ModelNotFoundError, match="other"):
            await client.generate("Once", model="other")
        dispatcher.failure = baton.OverloadedError("full", retry_after_s=2.5)
        with pytest.raises(baton.OverloadedError, match="full") as shed:
            await client.generate("Once")
        assert shed.value.retry_after_s == 2.5
        dispatcher.failure, dispatcher.failure_after = baton.UnavailableError("decode is gone"), 2
        with pytest.raises(baton.UnavailableError, match="decode is gone"):
            await client.generate("Once")


async def _measure(options: LoadOptions) -> Measurement:
    def ignore(_: str | int | Record) -> None:
        """The run is quiet."""

    return await measure(options, Progress(note=ignore, start=ignore, advance=ignore))


@pytest.mark.parametrize("backend", ["openai", "openai-chat", "grpc"])
async def test_the_load_generator_counts_the_ingresss_tokens(
    addresses: tuple[FakeDispatcher, str, str], backend: str
) -> None:
    dispatcher, url, target = addresses
    measurement = await _measure(
        LoadOptions(
            backend=backend,
            address=target if backend == "grpc" else url,
            num_prompts=4,
            concurrency=2,
            input_len=20,
            output_len=3,
        )
    )
    result = measurement.result
    assert (result["completed"], result["error_counts"]) == (4, {})
    assert result["total_output_tokens"] == 12
    assert result["total_input_tokens"] == sum(len(request.prompt_token_ids) for request in dispatcher.requests)
    assert [len(record.token_s) for record in measurement.run.records] == [3] * 4
    if backend != "openai-chat":
        assert {len(request.prompt_token_ids) for request in dispatcher.requests} == {20}


@pytest.mark.parametrize("max_tokens", [0, 3])
async def test_the_sdk_reads_how_likely_a_prompt_is(
    addresses: tuple[FakeDispatcher, str, str], max_tokens: int
) -> None:
    _, _, target = addresses
    async with baton.AsyncClient(target, timeout_s=20) as client:
        completion = await client.generate([7, 8, 9, 10, 11], prompt_logprobs=2, max_tokens=max_tokens)
        assert completion.choices[0].finish_reason == "length"
        assert len(completion.choices[0].token_ids) == max_tokens
        assert completion.prompt_logprobs is not None
        first, *others = completion.prompt_logprobs
        assert first is None
        told = [entry.sampled for entry in others if entry is not None]
        assert [(one.token_id, one.logprob, one.rank) for one in told] == [
            (8, -0.25, 2),
            (9, -0.5, 2),
            (10, -0.75, 2),
            (11, -1.0, 2),
        ]
        assert others[0] is not None
        assert [(one.token_id, one.rank) for one in others[0].top] == [(20, 1), (21, 2)]
        async with client.stream([7, 8, 9], prompt_logprobs=0, max_tokens=2) as stream:
            assert stream.prompt_logprobs is None
            await anext(stream)
            assert stream.prompt_logprobs is not None
            assert len(stream.prompt_logprobs) == 3
        plain = await client.generate("Once")
        assert plain.prompt_logprobs is None
        assert plain.choices[0].logprobs is None
        with pytest.raises(baton.InvalidRequestError, match="max_tokens is 0; it must be at least 1, or 0 with"):
            await client.generate("Once", max_tokens=0)
