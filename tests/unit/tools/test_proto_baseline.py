"""The public proto keeps what it promised, and each way of breaking it is named."""

from collections.abc import Callable

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from tools.generate_proto import public_file
from tools.proto_baseline import bare, baseline, breaks


@pytest.fixture(scope="module")
def current() -> FileDescriptorProto:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    return bare(public_file())


def test_clients_of_the_promised_proto_can_go_on(current: FileDescriptorProto) -> None:
    assert breaks(baseline(), current) == [], "see tools/proto_baseline.py"


def test_what_was_added_is_promised_too(current: FileDescriptorProto) -> None:
    assert baseline() == current, "run `python -m tools.proto_baseline --accept`"


def message(file: FileDescriptorProto, name: str) -> DescriptorProto:
    return next(each for each in file.message_type if each.name == name)


def field(file: FileDescriptorProto, owner: str, name: str) -> FieldDescriptorProto:
    return next(each for each in message(file, owner).field if each.name == name)


def remove(file: FileDescriptorProto) -> None:
    message(file, "Usage").field.pop()


def rename(file: FileDescriptorProto) -> None:
    field(file, "Usage", "cached_tokens").name = "hits"


def renumber(file: FileDescriptorProto) -> None:
    field(file, "Usage", "cached_tokens").number = 9


def retype(file: FileDescriptorProto) -> None:
    field(file, "Usage", "cached_tokens").type = FieldDescriptorProto.Type.Value("TYPE_STRING")


def repeat(file: FileDescriptorProto) -> None:
    field(file, "Usage", "cached_tokens").label = FieldDescriptorProto.Label.Value("LABEL_REPEATED")


def lose_presence(file: FileDescriptorProto) -> None:
    top_p = field(file, "SamplingParams", "top_p")
    top_p.ClearField("oneof_index")
    top_p.proto3_optional = False


def leave_oneof(file: FileDescriptorProto) -> None:
    field(file, "GenerateRequest", "prompt").ClearField("oneof_index")


def retype_map(file: FileDescriptorProto) -> None:
    entry = message(file, "SamplingParams").nested_type[0]
    entry.field[1].type = FieldDescriptorProto.Type.Value("TYPE_DOUBLE")


def remove_message(file: FileDescriptorProto) -> None:
    file.message_type.remove(message(file, "Chat"))


def rename_method(file: FileDescriptorProto) -> None:
    file.service[0].method[1].name = "Encode"


def stop_streaming(file: FileDescriptorProto) -> None:
    file.service[0].method[0].server_streaming = False


def rename_service(file: FileDescriptorProto) -> None:
    file.service[0].name = "Generation"


def renumber_value(file: FileDescriptorProto) -> None:
    file.enum_type[0].value[1].number = 7


def remove_value(file: FileDescriptorProto) -> None:
    file.enum_type[0].value.pop()


def rename_package(file: FileDescriptorProto) -> None:
    file.package = "baton.v2"


USAGE = "field baton.v1.Usage.cached_tokens"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove, f"{USAGE} is gone"),
        (rename, f"{USAGE}: number 3 is now hits's"),
        (renumber, f"{USAGE}: number 3 is now 9"),
        (retype, f"{USAGE}: was uint32 and is now string"),
        (repeat, f"{USAGE}: was uint32 and is now repeated uint32"),
        (lose_presence, "field baton.v1.SamplingParams.top_p: was optional float and is now float"),
        (leave_oneof, "field baton.v1.GenerateRequest.prompt: was in oneof input and is now in none"),
        (
            retype_map,
            "field baton.v1.SamplingParams.logit_bias: was map<uint32, float> and is now map<uint32, double>",
        ),
        (remove_message, "message baton.v1.Chat is gone"),
        (rename_method, "method Inference.Tokenize is gone"),
        (
            stop_streaming,
            "method Inference.Generate was (baton.v1.GenerateRequest) returns (stream baton.v1.GenerateResponse) "
            "and is now (baton.v1.GenerateRequest) returns (baton.v1.GenerateResponse)",
        ),
        (rename_service, "service Inference is gone"),
        (renumber_value, "value FinishReason.FINISH_REASON_STOP: number 1 is now 7"),
        (remove_value, "value FinishReason.FINISH_REASON_ERROR is gone"),
        (rename_package, "package baton.v1 is now baton.v2"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_break_is_refused_by_name(change: Callable[[FileDescriptorProto], None], said: str) -> None:
    changed = baseline()
    change(changed)
    assert said in breaks(baseline(), changed)


def test_additions_break_nothing() -> None:
    added = baseline()
    message(added, "Usage").field.add(name="drafted_tokens", number=4, type="TYPE_UINT32", label="LABEL_OPTIONAL")
    added.message_type.add(name="News")
    added.enum_type[0].value.add(name="FINISH_REASON_TOOL", number=5)
    added.service[0].method.add(name="Embed", input_type=".baton.v1.News", output_type=".baton.v1.News")
    assert breaks(baseline(), added) == []
