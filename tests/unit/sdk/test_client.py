"""The blocking client against a scripted server over loopback."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, get_args

import grpc
import pytest

import baton
from baton.v1 import inference_pb2 as pb
from tests.grpc_server import Fail, FakeGrpcServer, Hang, last, token


@pytest.fixture
def client(server: FakeGrpcServer) -> Iterator[baton.Client]:
    with baton.Client(server.target, timeout_s=20) as running:
        yield running


def test_generate_returns_text_tokens_finish_reason_and_usage(client: baton.Client) -> None:
    completion = client.generate("Once upon", max_tokens=3)
    assert completion.text == "t0 t1 t2 "
    assert completion.choices[0].token_ids == (100, 101, 102)
    assert completion.choices[0].finish_reason == "length"
    assert completion.choices[0].logprobs is None
    assert completion.request_id == "r1"
    assert completion.usage == baton.Usage(prompt_tokens=2, completion_tokens=3, cached_tokens=0)


def test_choices_that_arrive_interleaved_are_put_together_in_order(
    client: baton.Client, server: FakeGrpcServer
) -> None:
    stop = pb.FINISH_REASON_STOP
    mixed = token(0, choice=1)
    mixed.deltas.extend(token(5, choice=0).deltas)
    server.scripts.append(
        [mixed, token(6, choice=0, finish=stop), token(1, choice=1, finish=stop), last(completion_tokens=4)]
    )
    completion = client.generate("Once", n=2)
    assert [choice.text for choice in completion.choices] == ["t5 t6 ", "t0 t1 "]


def test_logprobs_and_the_stop_reason_come_through(client: baton.Client, server: FakeGrpcServer) -> None:
    sampled = pb.TokenLogprob(token_id=100, logprob=-0.5, text="t0 ")
    other = pb.TokenLogprob(token_id=7, logprob=-1.5, text="x")
    message = token(0, finish=pb.FINISH_REASON_STOP)
    message.deltas[0].stop_reason = "\n"
    message.deltas[0].logprobs.append(pb.TokenLogprobs(sampled=sampled, top=[sampled, other]))
    server.scripts.append([message, last(completion_tokens=1)])
    choice = client.generate("Once", logprobs=2, stop="\n").choices[0]
    assert choice.stop_reason == "\n"
    assert choice.logprobs is not None
    assert choice.logprobs[0].sampled == baton.TokenLogprob(token_id=100, logprob=-0.5, text="t0 ")
    assert [entry.token_id for entry in choice.logprobs[0].top] == [100, 7]


def test_every_sampling_keyword_reaches_the_server(client: baton.Client, server: FakeGrpcServer) -> None:
    sampling: baton.Sampling = {
        "max_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": -1,
        "min_p": 0.125,
        "n": 1,
        "stop": ["a", "b"],
        "stop_token_ids": [3, 4],
        "min_tokens": 2,
        "seed": 1 << 63,
        "logit_bias": {5: -1.5},
        "logprobs": 0,
        "prompt_logprobs": 0,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.5,
        "ignore_eos": True,
        "include_stop_str_in_output": True,
    }
    client.generate("Once", model="demo", **sampling)
    request = server.requests[0]
    assert request.model == "demo"
    fields = {field.name for field in pb.SamplingParams.DESCRIPTOR.fields} - {"structured_output"}
    assert set(baton.Sampling.__annotations__) == fields
    for name, value in sampling.items():
        sent = getattr(request.sampling, name)
        if name == "logit_bias":
            sent = dict(sent)
        elif name in ("stop", "stop_token_ids"):
            sent = list(sent)
        assert sent == value, name


def test_what_is_not_given_stays_unset(client: baton.Client, server: FakeGrpcServer) -> None:
    client.generate("Once", temperature=None)
    assert server.requests[0].sampling == pb.SamplingParams()


def test_a_single_stop_string_is_not_taken_apart(client: baton.Client, server: FakeGrpcServer) -> None:
    client.generate("Once", stop="END")
    assert list(server.requests[0].sampling.stop) == ["END"]


def test_an_unknown_keyword_is_a_type_error_before_anything_is_sent(
    client: baton.Client, server: FakeGrpcServer
) -> None:
    with pytest.raises(TypeError, match="max_token"):
        client.stream("Once", max_token=3)  # type: ignore[call-arg]
    assert server.requests == []


def test_token_ids_and_messages_are_prompts_too(client: baton.Client, server: FakeGrpcServer) -> None:
    client.generate([1, 2, 3])
    messages: list[baton.Message] = [{"role": "user", "content": "Hello"}]
    client.generate(messages)
    assert list(server.requests[0].prompt_token_ids.ids) == [1, 2, 3]
    assert server.requests[1].chat.messages[0].content == "Hello"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ([], "the prompt is empty"),
        ([1, -2], r"prompt\[1\] is -2"),
        ([1, "two"], r"prompt\[1\] is 'two'"),
        ([{"role": "user"}], r"messages\[0\]"),
        ([{"role": "user", "content": 3}], r"messages\[0\]"),
        ([{"role": "user", "content": "\ud800"}], r"messages\[0\]"),
        (None, "prompt is None; give a text, a list of token ids >= 0, or a list of messages"),
        (5, "prompt is 5; give a text"),
        (b"bytes", "prompt is b'bytes'; give a text"),
        ({"role": "user", "content": "hi"}, "prompt is {'role': 'user', .*; give a text"),
        ("\ud800", "prompt is not Unicode text"),
    ],
)
def test_a_prompt_no_message_can_hold_is_refused(client: baton.Client, prompt: Any, message: str) -> None:
    with pytest.raises(baton.InvalidRequestError, match=message):
        client.generate(prompt)


def test_a_chat_template_goes_with_messages(client: baton.Client, server: FakeGrpcServer) -> None:
    messages: list[baton.Message] = [{"role": "user", "content": "Hello"}]
    client.generate(messages, chat_template="tool_use")
    assert server.requests[0].chat.chat_template == "tool_use"


@pytest.mark.parametrize("prompt", ["Once", [1, 2]])
def test_a_chat_template_without_messages_is_refused(client: baton.Client, prompt: Any) -> None:
    with pytest.raises(baton.InvalidRequestError, match="chat_template is 'x', which is for a list of messages"):
        client.generate(prompt, chat_template="x")


def test_tokenizing_a_text_takes_no_chat_template(client: baton.Client) -> None:
    with pytest.raises(baton.InvalidRequestError, match="chat_template is 'x'"):
        client.tokenize("Once", chat_template="x")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_tokens", -1, r"max_tokens is -1; it must be a whole number from 0 to 2\*\*32 - 1"),
        ("max_tokens", 1.5, r"max_tokens is 1.5; it must be a whole number from 0 to 2\*\*32 - 1"),
        ("seed", -1, r"seed is -1; it must be a whole number from 0 to 2\*\*64 - 1"),
        ("temperature", "warm", "temperature is 'warm'; it must be a number"),
        ("stop_token_ids", [1 << 40], r"stop_token_ids is .*; it must be a list, each of it a whole number"),
        ("stop", 5, "stop is 5; it must be a list, each of it Unicode text"),
        ("stop", "\ud800", "stop is .*; it must be a list, each of it Unicode text"),
        ("logit_bias", {-5: 1}, "logit_bias is {-5: 1}; it must be a dict of token ids to numbers"),
        ("logit_bias", [5], r"logit_bias is \[5\]; it must be a dict of token ids to numbers"),
        ("ignore_eos", "yes", "ignore_eos is 'yes'; it must be True or False"),
    ],
)
def test_a_value_no_message_can_hold_names_its_field(client: baton.Client, name: str, value: Any, message: str) -> None:
    with pytest.raises(baton.InvalidRequestError, match=message) as caught:
        client.generate("Once", **{name: value})
    assert caught.value.field == name


def test_stream_yields_each_delta_and_then_knows_the_usage(client: baton.Client) -> None:
    with client.stream("Once upon", max_tokens=2) as stream:
        deltas = list(stream)
        assert [delta.text for delta in deltas] == ["t0 ", "t1 "]
        assert [delta.finish_reason for delta in deltas] == [None, "length"]
        assert stream.usage is not None
        assert stream.usage.completion_tokens == 2
        assert stream.request_id == "r1"
        assert stream.completion().text == "t0 t1 "


def test_leaving_a_stream_cancels_the_request(client: baton.Client, server: FakeGrpcServer) -> None:
    server.scripts.append([token(0), Hang()])
    with client.stream("Once") as stream:
        assert next(stream).text == "t0 "
    assert server.cancelled.wait(10)
    assert list(stream) == []


def test_a_deadline_is_sent_and_kept(client: baton.Client, server: FakeGrpcServer) -> None:
    server.scripts.append([Hang()])
    with pytest.raises(baton.DeadlineExceededError, match="did not answer within timeout_s; raise it"):
        client.generate("Once", timeout_s=0.2)
    assert 0 < server.requests[0].timeout_s <= 0.2
    assert 0 < server.deadlines_s[0] < 1  # gRPC rounds up
    assert server.cancelled.wait(10)


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan")])
def test_a_deadline_in_the_past_is_refused(client: baton.Client, timeout_s: float) -> None:
    with pytest.raises(baton.InvalidRequestError, match="timeout_s"):
        client.generate("Once", timeout_s=timeout_s)


def test_retryable_failures_before_the_first_token_are_tried_again(
    client: baton.Client, server: FakeGrpcServer
) -> None:
    server.scripts.extend([[Fail(status=grpc.StatusCode.UNAVAILABLE)], [Fail(status=grpc.StatusCode.UNAVAILABLE)]])
    assert client.generate("Once", max_tokens=1).text == "t0 "
    assert len(server.requests) == 3


def test_the_last_error_is_raised_when_retries_run_out(client: baton.Client, server: FakeGrpcServer) -> None:
    server.scripts.extend([[Fail(status=grpc.StatusCode.UNAVAILABLE, details="no decode worker")]] * 3)
    with pytest.raises(baton.UnavailableError, match="no decode worker"):
        client.generate("Once")
    assert len(server.requests) == 3


def test_nothing_is_sent_again_after_the_first_token(client: baton.Client, server: FakeGrpcServer) -> None:
    server.scripts.append([token(0), Fail(status=grpc.StatusCode.UNAVAILABLE)])
    with client.stream("Once") as stream:
        assert next(stream).text == "t0 "
        with pytest.raises(baton.UnavailableError):
            next(stream)
    assert len(server.requests) == 1


def test_a_stream_without_its_final_event_is_an_error(client: baton.Client, server: FakeGrpcServer) -> None:
    server.scripts.append([token(0)])
    with pytest.raises(baton.InternalError, match=r"ended the stream early: choices \[0\] unfinished"):
        client.generate("Once")


def test_tokenize_and_detokenize_are_inverse(client: baton.Client) -> None:
    token_ids = client.tokenize("Once")
    assert token_ids == [79, 110, 99, 101]
    assert client.detokenize(token_ids) == "Once"
    messages: list[baton.Message] = [{"role": "user", "content": "On"}]
    assert client.tokenize(messages) == [79, 110]


def test_detokenize_refuses_what_is_no_list_of_token_ids(client: baton.Client) -> None:
    wrong: Any
    for wrong, message in (
        (None, "token_ids is None"),
        ("text", "token_ids is 'text'"),
        ([-1], r"token_ids\[0\] is -1"),
    ):
        with pytest.raises(baton.InvalidRequestError, match=message) as caught:
            client.detokenize(wrong)
        assert caught.value.field == "token_ids"


def test_a_target_that_is_no_address_says_so() -> None:
    with (
        baton.Client("http://127.0.0.1:9", max_retries=0, timeout_s=20) as client,
        pytest.raises(baton.UnavailableError, match=r"target 'http://127\.0\.0\.1:9' is no address; give host:port"),
    ):
        client.generate("Once")


def test_tokenize_refuses_token_ids(client: baton.Client) -> None:
    with pytest.raises(baton.InvalidRequestError, match="tokenize takes a text"):
        client.tokenize([1, 2])


def test_models_lists_what_is_served(client: baton.Client) -> None:
    assert client.models() == [baton.Model(id="fake", max_model_len=2048, vocab_size=500)]


def test_unary_calls_are_tried_again_too(client: baton.Client, server: FakeGrpcServer) -> None:
    server.unary_scripts.append(Fail(status=grpc.StatusCode.UNAVAILABLE))
    assert client.models()[0].id == "fake"
    assert len(server.requests) == 2


def test_health_follows_the_standard_service(client: baton.Client, server: FakeGrpcServer) -> None:
    assert client.health() == "serving"
    server.background.run(server.set_health(False))
    assert client.health() == "not_serving"


def test_a_stream_that_is_closed_while_it_pauses_is_not_sent_again(
    client: baton.Client, server: FakeGrpcServer
) -> None:
    pause = (("retry-after-ms", "15000"),)
    server.scripts.append([Fail(status=grpc.StatusCode.RESOURCE_EXHAUSTED, metadata=pause)])
    stream = client.stream("Once")
    reading = threading.Thread(target=lambda: list(stream), daemon=True)
    reading.start()
    assert server.received.wait(10)
    stream.close()
    reading.join(10)
    assert not reading.is_alive()
    assert len(server.requests) == 1


def test_a_closed_client_refuses_calls(server: FakeGrpcServer) -> None:
    client = baton.Client(server.target)
    client.close()
    with pytest.raises(ValueError, match="closed channel"):
        client.models()


def test_importing_baton_loads_neither_grpc_nor_protobuf() -> None:
    check = "import sys, baton, baton.errors; sys.exit('grpc' in sys.modules or 'google.protobuf' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_every_public_name_is_listed_and_loads_what_it_says() -> None:
    assert dir(baton) == sorted(baton.__all__)
    texts = {"FinishReason": ("stop", "length"), "HealthStatus": ("serving", "not_serving")}
    for name in baton.__all__:
        value = getattr(baton, name)
        if name in texts:
            assert set(texts[name]) <= set(get_args(value))
        else:
            assert value.__name__ == name
            assert issubclass(value, baton.BatonError) is name.endswith("Error")
    with pytest.raises(AttributeError, match="module 'baton' has no attribute 'Server'"):
        _ = baton.Server
