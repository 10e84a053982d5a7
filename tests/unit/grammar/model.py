"""The bundled demo's vocabulary, with the fake model or its own, and grammars over it."""

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import llguidance

from tests.unit.engine.driver import Driver, make_spec
from workers.engine.drafting import Drafter
from workers.engine.following import Grammars
from workers.grammar.book import GrammarBook
from workers.grammar.vocabulary import load_vocabulary
from workers.model.contract import ModelRunner
from workers.model.fake import FakeRunner
from workers.spec import Role, WorkerSpec

DEMO = Path(__file__).resolve().parents[3] / "workers" / "model" / "bundled" / "demo"
VOCAB_SIZE = 4096
EOS = 0
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,12}$"},
        "height": {"type": "integer", "minimum": 40, "maximum": 250},
        "colour": {"enum": ["bright red", "dark green", "blue"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3},
    },
    "required": ["name", "height", "colour", "tags"],
    "additionalProperties": False,
}


@functools.cache
def vocabulary() -> llguidance.LLTokenizer:
    return load_vocabulary(DEMO, VOCAB_SIZE, {EOS})


def json_grammar(schema: object) -> str:
    options = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)  # type: ignore[arg-type]


def regex(pattern: str) -> str:
    return llguidance.LLMatcher.grammar_from_regex(pattern)


def ids(text: str) -> list[int]:
    return vocabulary().tokenize_str(text)


def text(token_ids: Sequence[int]) -> str:
    return vocabulary().decode_str([token for token in token_ids if token != EOS])


def demo_spec(role: Role = Role.MIXED, **engine: object) -> WorkerSpec:
    settings: dict[str, object] = {"memory_bytes": 1 << 20, "max_batched_tokens": 64} | engine
    return replace(make_spec(role, **settings), model=str(DEMO))


def make_grammars(spec: WorkerSpec, runner: ModelRunner) -> Grammars | None:
    return GrammarBook(Path(spec.model), runner)


def driver(roles: Sequence[Role] = (Role.MIXED,), drafter: Drafter | None = None, **engine: object) -> Driver:
    """The fake model, over the demo's vocabulary."""
    specs = [demo_spec(role, **engine) for role in roles]
    return Driver(specs, FakeRunner, drafter, make_grammars=make_grammars)
