"""Holds the public proto to what clients were promised:  python -m tools.proto_baseline [--accept | --accept-breaks].

The promise is the baseline, the descriptors of `inference.proto` as JSON, checked in beside it. Additions keep it, and
`--accept` makes them a part of it. What was removed, renamed, renumbered or became of another type breaks programs that
were built from it, on the wire, in JSON or when compiled again: each is named and refused; `--accept-breaks` is
for a release that says so.
"""

import argparse
import sys
from collections.abc import Iterator

from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
)

from tools.generate_proto import PUBLIC, public_file
from tools.proto_names import messages, oneof_name, type_name

BASELINE = PUBLIC.with_suffix(".baseline.json")


def breaks(before: FileDescriptorProto, after: FileDescriptorProto) -> list[str]:
    """What of `before` does not hold in `after`, a sentence each; empty when clients of `before` can go on."""
    return [*_package(before, after), *_services(before, after), *_messages(before, after), *_enums(before, after)]


def _package(before: FileDescriptorProto, after: FileDescriptorProto) -> Iterator[str]:
    if before.package != after.package:
        yield f"package {before.package} is now {after.package}"
    if before.syntax != after.syntax:
        yield f"syntax {before.syntax} is now {after.syntax}"


def _services(before: FileDescriptorProto, after: FileDescriptorProto) -> Iterator[str]:
    services = {service.name: service for service in after.service}
    for service in before.service:
        now = services.get(service.name)
        if now is None:
            yield f"service {service.name} is gone"
            continue
        methods = {method.name: method for method in now.method}
        for method in service.method:
            name = f"method {service.name}.{method.name}"
            if method.name not in methods:
                yield f"{name} is gone"
            elif (was := _signature(method)) != (is_now := _signature(methods[method.name])):
                yield f"{name} was {was} and is now {is_now}"


def _signature(method: MethodDescriptorProto) -> str:
    asks, gives = ("stream " * streams for streams in (method.client_streaming, method.server_streaming))
    return f"({asks}{method.input_type[1:]}) returns ({gives}{method.output_type[1:]})"


def _messages(before: FileDescriptorProto, after: FileDescriptorProto) -> Iterator[str]:
    now = dict(messages(after))
    for name, message in messages(before):
        if name in now:
            yield from _fields(name, message, now[name])
        else:
            yield f"message {name} is gone"


def _fields(name: str, before: DescriptorProto, after: DescriptorProto) -> Iterator[str]:
    by_name = {field.name: field for field in after.field}
    by_number = {field.number: field for field in after.field}
    for field in before.field:
        where = f"field {name}.{field.name}"
        now = by_name.get(field.name)
        if now is not None:
            yield from (f"{where}: {change}" for change in _changes(field, before, now, after))
        elif field.number in by_number:
            yield f"{where}: number {field.number} is now {by_number[field.number].name}'s"
        else:
            yield f"{where} is gone"


def _changes(
    field: FieldDescriptorProto, before: DescriptorProto, now: FieldDescriptorProto, after: DescriptorProto
) -> Iterator[str]:
    if field.number != now.number:
        yield f"number {field.number} is now {now.number}"
    if (was := type_name(field, before)) != (is_now := type_name(now, after)):
        yield f"was {was} and is now {is_now}"
    if (group := oneof_name(field, before)) != (group_now := oneof_name(now, after)):
        yield f"was in oneof {group or 'none'} and is now in {group_now or 'none'}"
    if field.json_name != now.json_name:
        yield f"is {now.json_name} in JSON and was {field.json_name}"


def _enums(before: FileDescriptorProto, after: FileDescriptorProto) -> Iterator[str]:
    enums = {enum.name: enum for enum in after.enum_type}
    for enum in before.enum_type:
        if enum.name in enums:
            yield from _values(enum, enums[enum.name])
        else:
            yield f"enum {enum.name} is gone"


def _values(before: EnumDescriptorProto, after: EnumDescriptorProto) -> Iterator[str]:
    numbers = {value.name: value.number for value in after.value}
    for value in before.value:
        name = f"value {before.name}.{value.name}"
        if value.name not in numbers:
            yield f"{name} is gone"
        elif numbers[value.name] != value.number:
            yield f"{name}: number {value.number} is now {numbers[value.name]}"


def baseline() -> FileDescriptorProto:
    return json_format.Parse(BASELINE.read_text(encoding="utf-8"), FileDescriptorProto())


def bare(file: FileDescriptorProto) -> FileDescriptorProto:
    """Without comments and the places of things."""
    copy = FileDescriptorProto()
    copy.CopyFrom(file)
    copy.ClearField("source_code_info")
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accept", action="store_true", help="promise what was added too")
    parser.add_argument("--accept-breaks", action="store_true", help="promise the proto as it is, whatever that breaks")
    options = parser.parse_args()
    file = bare(public_file())
    broken = breaks(baseline(), file)
    if broken and not options.accept_breaks:
        sys.exit("\n".join(broken))
    if options.accept or options.accept_breaks:
        BASELINE.write_text(json_format.MessageToJson(file, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
