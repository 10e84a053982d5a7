import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tools.generate_proto import public_file
from tools.proto_docs import OUT, SYNTAX, comments, document, parts


@pytest.fixture(scope="module")
def public() -> FileDescriptorProto:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    return public_file()


def test_everything_public_says_what_it_is(public: FileDescriptorProto) -> None:
    said = comments(public)
    assert [name for path, name in parts(public) if path not in said] == []
    assert (SYNTAX,) in said
    assert len(list(parts(public))) > 80


def test_the_reference_is_what_the_proto_says(public: FileDescriptorProto) -> None:
    assert OUT.read_text(encoding="utf-8") == document(public), "run `python -m tools.proto_docs`"


def test_the_reference_has_every_field_with_its_number_and_type(public: FileDescriptorProto) -> None:
    text = document(public)
    for line in (
        "| 11 | `logit_bias` | `map<uint32, float>` | Added to the logits of these token ids, [-100, 100] each. |",
        "| 4 | `chat` (of `input`) | [Chat](#chat) | The messages of a chat. |",
        "| 2 | `temperature` | `optional float` | >= 0, default 1; 0 is greedy. |",
    ):
        assert line in text
