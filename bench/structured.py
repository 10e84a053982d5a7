"""What it costs to follow a grammar: masks and compiling by llguidance and by xgrammar, and steps with and without.

    python -m bench.structured                          # masks, compiling, steps of smollm2
    python -m bench.structured --quick                  # under 2 minutes
    python -m bench.structured --suite DRAFT_FOLDER     # and the JSON-Schema-Test-Suite: tests/draft2020-12 of it

Masks are made by one thread. The vocabularies are demo's (4,096 tokens), smollm2's (49,152), and smollm2's with pairs
of its tokens up to 131,072. xgrammar is shown where it is installed; it needs torch. Steps are of smollm2 in float32,
in the same process and by turns, so that what else the machine does is the same for both.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.machine import Quick, announce
from bench.structured_libraries import COPIES, libraries, mask_cost, taken, vocabulary_of
from bench.structured_steps import step_cost
from workers.model.registry import resolve_model

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["alpha", "beta"]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{2,8}$"}},
        "height": {"type": "number"},
        "born": {"type": "string", "format": "date"},
        "friends": {"type": "array", "items": {"$ref": "#/$defs/friend"}},
    },
    "required": ["name", "kind", "tags", "height", "born", "friends"],
    "additionalProperties": False,
    "$defs": {
        "friend": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "since": {"type": "integer"}},
            "required": ["name"],
            "additionalProperties": False,
        }
    },
}
FRIENDS = [{"name": "Ann of the long road by the sea", "since": 1999}, {"name": "Bob"}]
CASES: list[tuple[Any, Any]] = [
    (
        PERSON,
        {
            "name": "Somebody whose name goes on for quite a while",
            "kind": "beta",
            "tags": ["abc", "zzzz"],
            "height": 12.5,
            "born": "1999-12-31",
            "friends": FRIENDS,
        },
    ),
    (
        {"type": "object"},
        {"any": {"thing": [1, 2.5, None, True, "that there is, and more of it in a longer text"]}, "more": []},
    ),
    (
        {"anyOf": [{"type": "string", "maxLength": 80}, {"type": "array", "items": {"type": "integer"}}]},
        "it was a dark and stormy night, and nobody was there",
    ),
]


def main(quick: Quick = False, suite: Annotated[Path | None, typer.Option("--suite")] = None) -> None:
    announce("structured", about_s=100 if quick else 400, dtypes=["float32"])
    smollm2, demo = Path(resolve_model("smollm2")), Path(resolve_model("demo"))
    sizes = [(demo, "demo", 0), (smollm2, "smollm2", 0), (smollm2, "smollm2 and pairs", 1 << 17)]
    for folder, name, size in sizes:
        vocabulary = vocabulary_of(folder, name, size)
        for library in libraries(vocabulary):
            cost = mask_cost(library, vocabulary, CASES)
            masks = ", ".join(f"{cost.us_per_mask[count]:.0f}" for count in COPIES)
            print(
                f"{len(vocabulary.tokens):7,} tokens  {library.name:10}  a mask {masks} us (of 1, 16, 64)  "
                f"{cost.first_us:.0f} us the first time  compiling {cost.compile_ms:.1f} ms  "
                f"valid texts refused {cost.num_refused}",
                flush=True,
            )
    if suite is not None:
        vocabulary = vocabulary_of(smollm2, "smollm2")
        for library in libraries(vocabulary):
            found = taken(library, vocabulary, suite)
            print(
                f"{suite.name}: {library.name:10} refuses {found.num_refused} of {found.num_schemas} schemas; of "
                f"{found.num_instances} instances of the others it lets {found.num_invalid_taken} invalid ones through "
                f"and never writes {found.num_valid_refused} valid ones",
                flush=True,
            )
    for batch, num_steps in ((1, 60), (16, 20)) if quick else ((1, 300), (16, 150), (64, 60)):
        steps = step_cost(smollm2, batch, num_steps)
        print(
            f"batch {batch:2}: a step {steps.without_ms:.2f} ms without, {steps.with_ms:.2f} ms with a grammar: "
            f"{steps.added:+.1%} (median of {steps.num_steps} pairs), {steps.waited_ms:.2f} ms waited for masks",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
