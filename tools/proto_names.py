"""What a proto file's parts are called: the words of documentation and of refusals."""

from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

_REPEATED = FieldDescriptorProto.Label.Value("LABEL_REPEATED")


def messages(file: FileDescriptorProto) -> Iterator[tuple[str, DescriptorProto]]:
    """Each message with its full name, those inside others too; entries of maps are no messages of ours."""
    waiting = [(f"{file.package}.{message.name}", message) for message in file.message_type]
    while waiting:
        name, message = waiting.pop(0)
        yield name, message
        nested = [each for each in message.nested_type if not each.options.map_entry]
        waiting += [(f"{name}.{each.name}", each) for each in nested]


def type_name(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """As one writes it: `uint32`, `optional float`, `repeated Chat`, `map<uint32, float>`; full names of messages."""
    entries = {each.name: each for each in message.nested_type if each.options.map_entry}
    entry = entries.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        key, value = (type_name(each, entry) for each in entry.field)
        return f"map<{key}, {value}>"
    name = field.type_name.removeprefix(".") or _scalar(field)
    if field.proto3_optional:
        return f"optional {name}"
    return f"repeated {name}" if field.label == _REPEATED else name


def oneof_name(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """The group of fields of which one is set; empty for a field of its own."""
    if not field.HasField("oneof_index") or field.proto3_optional:
        return ""
    return message.oneof_decl[field.oneof_index].name


def _scalar(field: FieldDescriptorProto) -> str:
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
