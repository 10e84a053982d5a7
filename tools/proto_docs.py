"""Writes docs/proto.md from the comments of the public proto:  python -m tools.proto_docs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto

from tools.generate_proto import ROOT, public_file
from tools.proto_names import oneof_name, type_name

OUT = ROOT / "docs" / "proto.md"
Comments = Mapping[tuple[int, ...], str]

# Paths of protobuf's own descriptor.proto: which field of a file, message, enum or service holds what.
SYNTAX, MESSAGES, ENUMS, SERVICES = 12, 4, 5, 6
FIELDS, ONEOFS, VALUES, METHODS = 2, 8, 2, 2


def document(file: FileDescriptorProto) -> str:
    said = comments(file)
    lines = [
        f"# `{file.package}`",
        "",
        "Made from the comments of `proto/baton/v1/inference.proto` by `python -m tools.proto_docs`; do not edit.",
        "",
        said.get((SYNTAX,), ""),
        *(line for place in range(len(file.service)) for line in _service(file, place, said)),
        *(line for place, each in enumerate(file.message_type) for line in _message(file, each, place, said)),
        *(line for place, each in enumerate(file.enum_type) for line in _enum(each, place, said)),
    ]
    return "\n".join(lines) + "\n"


def comments(file: FileDescriptorProto) -> Comments:
    """What is said of each part, by its path; paragraphs as they are, lines of one joined."""
    found = {}
    for location in file.source_code_info.location:
        text = location.leading_comments or location.trailing_comments
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
        if any(paragraphs):
            found[tuple(location.path)] = "\n\n".join(paragraphs)
    return found


def parts(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """The path and name of everything that wants a comment."""
    for place, service in enumerate(file.service):
        yield (SERVICES, place), service.name
        yield from _named((SERVICES, place, METHODS), service.name, [each.name for each in service.method])
    for place, message in enumerate(file.message_type):
        yield (MESSAGES, place), message.name
        yield from _named((MESSAGES, place, FIELDS), message.name, [each.name for each in message.field])
        groups = [each.name for each in message.oneof_decl if not each.name.startswith("_")]
        yield from _named((MESSAGES, place, ONEOFS), message.name, groups)
    for place, enum in enumerate(file.enum_type):
        yield (ENUMS, place), enum.name
        yield from _named((ENUMS, place, VALUES), enum.name, [each.name for each in enum.value])


def _named(path: tuple[int, ...], owner: str, names: Sequence[str]) -> Iterator[tuple[tuple[int, ...], str]]:
    for place, name in enumerate(names):
        yield (*path, place), f"{owner}.{name}"


def _service(file: FileDescriptorProto, place: int, said: Comments) -> Iterator[str]:
    service = file.service[place]
    yield from ("", f"## Service `{service.name}`", "", said.get((SERVICES, place), ""), "")
    rows = []
    for number, method in enumerate(service.method):
        answer = _linked(method.output_type.lstrip("."), file)
        answer = f"stream of {answer}" if method.server_streaming else answer
        request = _linked(method.input_type.lstrip("."), file)
        rows.append((f"`{method.name}`", request, answer, said.get((SERVICES, place, METHODS, number), "")))
    yield from _table(("method", "takes", "gives", ""), rows)


def _message(file: FileDescriptorProto, message: DescriptorProto, place: int, said: Comments) -> Iterator[str]:
    yield from ("", f"## {message.name}", "", said.get((MESSAGES, place), ""))
    groups = [(number, each.name) for number, each in enumerate(message.oneof_decl) if not each.name.startswith("_")]
    for number, name in groups:
        yield from ("", f"`{name}`: {said.get((MESSAGES, place, ONEOFS, number), '')}")
    rows = []
    for number, field in enumerate(message.field):
        group = oneof_name(field, message)
        name = f"`{field.name}` (of `{group}`)" if group else f"`{field.name}`"
        text = said.get((MESSAGES, place, FIELDS, number), "")
        rows.append((str(field.number), name, _linked(type_name(field, message), file), text))
    if rows:
        yield ""
        yield from _table(("", "field", "type", ""), rows)


def _enum(enum: EnumDescriptorProto, place: int, said: Comments) -> Iterator[str]:
    yield from ("", f"## {enum.name}", "", said.get((ENUMS, place), ""), "")
    rows = [
        (str(value.number), f"`{value.name}`", said.get((ENUMS, place, VALUES, number), ""))
        for number, value in enumerate(enum.value)
    ]
    yield from _table(("", "value", ""), rows)


def _linked(name: str, file: FileDescriptorProto) -> str:
    """A link where it is a type of this file, with the words before it."""
    words, _, last = name.rpartition(" ")
    if not last.startswith(f"{file.package}."):
        return f"`{name}`"
    short = last.removeprefix(f"{file.package}.")
    return f"{words} [{short}](#{short.lower()})".strip()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    OUT.write_text(document(public_file()), encoding="utf-8")
