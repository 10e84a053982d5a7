"""Do answers that must follow a schema follow it? Real schemas, a real model, a running server:

    python -m bench.schemas --target 127.0.0.1:9000 --suite /path/to/jsonschema/json/tests/draft2020-12

Schemas are JSON Schema's own test suite's (`pip download --no-deps --no-binary :all: jsonschema`, then its folder
json/tests/draft2020-12), and beside them of the kinds that programs send. Every answer that ended by itself is checked
by `jsonschema`, formats too. `--out` keeps the tokens, and `--same-as` compares them with those of another server: with
equal seeds they must be equal, whatever way they were written. `--part 2/4` asks for a quarter of the schemas.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]

import baton
from bench.machine import announce
from cluster.ingress.structured.output import JsonSchema
from cluster.ingress.structured.refusal import refusal

NUM_SCHEMAS = 300
NUM_SAMPLES = 5
QUICK = (30, 2)
ABOUT_S = 0.5  # an answer
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    schema: Any
    answers: tuple[baton.Choice, ...]


def suite_schemas(folder: Path) -> list[Any]:
    cases = [case for path in sorted(folder.rglob("*.json")) for case in json.loads(path.read_text(encoding="utf-8"))]
    unique = {json.dumps(case["schema"]): case["schema"] for case in cases}
    return list(unique.values())


def own_schemas(rng: random.Random) -> Iterator[Schema]:
    """Without end: objects in objects, enums, patterns, formats, alternatives, references, long lists."""
    makers = (_nested, _choices, _patterns, _formats, _any_of, _referring, _long_list)
    while True:
        for make in makers:
            yield make(rng)


def _object(properties: Schema, **more: Any) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


def _leaf(rng: random.Random) -> Schema:
    low = rng.randint(-50, 50)
    return rng.choice(
        [
            {"type": "string", "minLength": rng.randint(0, 3), "maxLength": rng.randint(4, 20)},
            {"type": "integer", "minimum": low, "maximum": low + rng.randint(1, 500)},
            {"type": "number", "exclusiveMinimum": low, "maximum": low + rng.randint(1, 9)},
            {"type": "integer", "multipleOf": rng.choice([2, 5, 7, 10]), "minimum": 0, "maximum": 1000},
            {"type": "boolean"},
            {"type": ["boolean", "null"]},
            {"enum": rng.sample(["red", "green", "blue", 1, 2.5, None, True, "é\n"], rng.randint(1, 5))},
        ]
    )


def _nested(rng: random.Random, levels: int = 3) -> Schema:
    fields = rng.sample(["name", "owner", "size", "place", "x-y", "größe", "a b"], rng.randint(1, 3))
    return _object(
        {field: _nested(rng, levels - 1) if levels and rng.random() < 0.5 else _leaf(rng) for field in fields}
    )


def _choices(rng: random.Random) -> Schema:
    words = [f"option {number}" for number in range(rng.randint(2, 200))]
    return _object({"kind": {"enum": words}, "also": {"const": {"a": [1, None]}}, "level": {"enum": [1, 2, 3]}})


def _patterns(rng: random.Random) -> Schema:
    patterns = [
        "^[A-Z]{3}-[0-9]{4}$",
        "^([0-9]{1,3}\\.){3}[0-9]{1,3}$",
        "colou?r",
        "^[a-z]+@[a-z]+\\.(com|org)$",
        "[^aeiou]{2}$",
    ]
    texts = {
        f"p{place}": {"type": "string", "pattern": pattern, "maxLength": 40} for place, pattern in enumerate(patterns)
    }
    return _object({name: texts[name] for name in rng.sample(sorted(texts), 3)})


def _formats(rng: random.Random) -> Schema:
    formats = rng.sample(
        ["date", "date-time", "time", "uuid", "ipv4", "ipv6", "email", "hostname", "uri", "duration"], 3
    )
    return _object({form: {"type": "string", "format": form, "maxLength": 60} for form in formats})


def _any_of(rng: random.Random) -> Schema:
    options = [_object({"type": {"const": f"t{number}"}, "value": _leaf(rng)}) for number in range(rng.randint(2, 4))]
    return {rng.choice(["anyOf", "oneOf"]): options}


def _referring(rng: random.Random) -> Schema:
    node = _object({"value": {"$ref": "#/$defs/leaf"}, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}})
    return {"$defs": {"node": node, "leaf": _leaf(rng)}, "$ref": "#/$defs/node"}


def _long_list(rng: random.Random) -> Schema:
    least = rng.randint(5, 30)
    items = rng.choice([{"type": "integer", "minimum": 0, "maximum": 99}, {"type": "boolean"}, {"enum": ["a", "b"]}])
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + rng.randint(0, 10)}


async def ask(client: baton.AsyncClient, schema: Any, seed: int, max_tokens: int, samples: int) -> Result | str:
    """A refusal's words, or the answers."""
    prompt = f"JSON of the schema {json.dumps(schema)[:400]}:\n"
    try:
        async with client.stream(
            prompt, schema=schema, n=samples, temperature=1.0, seed=seed, max_tokens=max_tokens
        ) as stream:
            completion = await stream.completion()
    except baton.InvalidRequestError as error:
        return error.message
    return Result(schema=schema, answers=completion.choices)


def faults(result: Result) -> list[str]:
    """Of the answers that ended by themselves, those that the schema does not allow."""
    kind = jsonschema.validators.validator_for(result.schema, default=jsonschema.Draft202012Validator)
    validator = kind(result.schema, format_checker=kind.FORMAT_CHECKER)
    found = []
    for answer in result.answers:
        if answer.finish_reason != "stop":
            continue
        try:
            validator.validate(json.loads(answer.text))
        except (ValueError, jsonschema.ValidationError) as error:
            found.append(f"{json.dumps(result.schema)[:200]} -> {answer.text[:200]!r}: {str(error)[:100]}")
    return found


def chosen(options: argparse.Namespace) -> list[Any]:
    """The suite's that can be followed, 20 of each kind of our own at least, and more of those up to `--schemas`."""
    suite = [one for one in suite_schemas(options.suite) if "\\\\p" not in json.dumps(one)] if options.suite else []
    found = [one for one in suite if refusal(JsonSchema(one)) is None]  # Python's `re`, which checks, knows no such
    found = found[: max(0, options.schemas - 140)]
    own = own_schemas(random.Random(options.seed))
    found += [next(own) for _ in range(options.schemas - len(found))]
    part, parts = map(int, options.part.split("/"))
    return found[part - 1 :: parts]


async def run(options: argparse.Namespace) -> int:
    announce("bench.schemas", about_s=ABOUT_S * options.schemas * options.samples)
    schemas = chosen(options)
    results: list[Result] = []
    refused: list[str] = []
    gate = asyncio.Semaphore(options.concurrency)
    started_s = time.monotonic()

    async def one(client: baton.AsyncClient, number: int, schema: Any) -> None:
        async with gate:
            answer = await ask(client, schema, number, options.max_tokens, options.samples)
        if isinstance(answer, str):
            refused.append(answer)
        else:
            results.append(answer)
            print(f"\r{len(results)} schemas", end="", file=sys.stderr, flush=True)

    async with baton.AsyncClient(options.target, timeout_s=900) as client:
        await asyncio.gather(*(one(client, number, schema) for number, schema in enumerate(schemas)))
    wrong = [fault for result in results for fault in faults(result)]
    answers = [answer for result in results for answer in result.answers]
    whole = sum(answer.finish_reason == "stop" for answer in answers)
    tokens = sum(len(answer.token_ids) for answer in answers)
    took_s = time.monotonic() - started_s
    print(
        f"\n{len(results)} schemas ({len(refused)} refused), {len(answers)} answers, {whole} whole, {len(wrong)} wrong"
    )
    print(f"{tokens} tokens in {took_s:.0f} s")
    print("\n".join(wrong))
    written = {json.dumps(result.schema): [list(answer.token_ids) for answer in result.answers] for result in results}
    if options.out is not None:
        options.out.write_text(json.dumps(written))
    if options.same_as is None:
        return int(bool(wrong))
    other = json.loads(options.same_as.read_text())
    different = [schema for schema in written if written[schema] != other.get(schema)]
    print(f"{len(different)} schemas with other tokens than {options.same_as}")
    return int(bool(wrong or different))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:9000")
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--schemas", type=int, default=NUM_SCHEMAS)
    parser.add_argument("--samples", type=int, default=NUM_SAMPLES)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--same-as", type=Path)
    parser.add_argument("--quick", action="store_true", help="30 schemas, 2 answers each")
    options = parser.parse_args()
    if options.quick:
        options.schemas, options.samples = QUICK
    sys.exit(asyncio.run(run(options)))


if __name__ == "__main__":
    main()
