"""llguidance and xgrammar side by side: what a mask takes, what compiling takes, and which schemas are refused.

xgrammar is no dependency of Baton's: where it is not installed, llguidance is shown alone.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, Protocol

import llguidance
import numpy as np
from llguidance._tokenizer import TokenizerWrapper
from tokenizers import Tokenizer

COPIES = (1, 16, 64)


class Vocabulary(NamedTuple):
    name: str
    tokens: list[bytes]
    special: list[int]
    eos: int
    encode: Callable[[str], list[int]]


class Library(Protocol):
    name: str

    def compile(self, schema: Any) -> Any:
        """Raises: ValueError: it does not take the schema."""
        ...

    def start(self, compiled: Any) -> Any: ...

    def fill(self, matchers: Sequence[Any], bits: np.ndarray) -> None: ...

    def take(self, matcher: Any, token_id: int) -> bool: ...


class Llguidance:
    name = "llguidance"

    def __init__(self, vocabulary: Vocabulary) -> None:
        class Tokens:
            eos_token_id, bos_token_id = vocabulary.eos, None
            tokens, special_token_ids = vocabulary.tokens, vocabulary.special

            def __call__(self, text: str | bytes) -> list[int]:
                return vocabulary.encode(text if isinstance(text, str) else text.decode("utf-8", "ignore"))

        self._tokens = llguidance.LLTokenizer(TokenizerWrapper(Tokens()))
        self._executor = llguidance.LLExecutor(1)

    def compile(self, schema: Any) -> Any:
        matcher = llguidance.LLMatcher(self._tokens, llguidance.LLMatcher.grammar_from_json_schema(schema), log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher

    def start(self, compiled: Any) -> Any:
        return compiled.deep_copy()

    def fill(self, matchers: Sequence[Any], bits: np.ndarray) -> None:
        asked = [(matcher, at) for at, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(asked, bits.ctypes.data, bits.shape[1] * 4, len(bits))

    def take(self, matcher: Any, token_id: int) -> bool:
        return bool(matcher.try_consume_tokens([token_id]) == 1)


class Xgrammar:
    name = "xgrammar"

    def __init__(self, vocabulary: Vocabulary) -> None:
        import xgrammar  # type: ignore[import-not-found]

        self._library = xgrammar
        info = xgrammar.TokenizerInfo(vocabulary.tokens, stop_token_ids=[vocabulary.eos])
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile(self, schema: Any) -> Any:
        try:
            return self._compiler.compile_json_schema(json.dumps(schema))
        except Exception as error:  # its own are of several kinds
            raise ValueError(str(error)) from error

    def start(self, compiled: Any) -> Any:
        return self._library.GrammarMatcher(compiled)

    def fill(self, matchers: Sequence[Any], bits: np.ndarray) -> None:
        import torch

        tensor = torch.from_numpy(bits)
        for at, matcher in enumerate(matchers):
            matcher.fill_next_token_bitmask(tensor, at)

    def take(self, matcher: Any, token_id: int) -> bool:
        return bool(matcher.accept_token(token_id))


def libraries(vocabulary: Vocabulary) -> Iterator[Library]:
    yield Llguidance(vocabulary)
    try:
        yield Xgrammar(vocabulary)
    except ImportError:
        print("xgrammar is not installed: llguidance alone", flush=True)


def vocabulary_of(folder: Path, name: str, size: int = 0) -> Vocabulary:
    """Of a model's folder, byte-level; up to `size` with tokens that are two of its own side by side."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = llguidance.LLTokenizer((folder / "tokenizer.json").read_text())
    tokens = [ours.decode_bytes([token]) for token in range(ours.vocab_size)]
    special = [token for token in range(ours.vocab_size) if ours.is_special_token(token)]
    known, rng, plain = set(tokens), Random(1), [one for one in tokens if one]
    while len(tokens) < size:
        pair = rng.choice(plain) + rng.choice(plain)
        if len(pair) < 16 and pair not in known:
            known.add(pair)
            tokens.append(pair)
    return Vocabulary(name, tokens, special, ours.eos_token, lambda text: list(tokenizer.encode(text).ids))


class MaskCost(NamedTuple):
    us_per_mask: dict[int, float]  # by how many are made at once, of texts that were seen before
    first_us: float  # of texts that are seen for the first time, one at once
    compile_ms: float
    num_refused: int  # valid texts: a library's fault


def mask_cost(library: Library, vocabulary: Vocabulary, cases: Sequence[tuple[Any, Any]]) -> MaskCost:
    """Means over all places of valid texts, whose matchers are all at the same place.

    Args:
        cases: Schemas, and a valid instance of each.
    """
    first_s: list[float] = []
    times: dict[int, list[float]] = {count: [] for count in COPIES}
    compiled_s, num_refused = [], 0
    for schema, instance in cases:
        began_s = time.perf_counter()
        compiled = library.compile(schema)
        compiled_s.append(time.perf_counter() - began_s)
        token_ids = vocabulary.encode(json.dumps(instance))
        num_refused += not _walk(library, vocabulary, compiled, token_ids, {1: first_s})
        for count in COPIES:
            _walk(library, vocabulary, compiled, token_ids, {count: times[count]})
    mean_us = {count: 1e6 * sum(each) / len(each) for count, each in times.items()}
    return MaskCost(mean_us, 1e6 * sum(first_s) / len(first_s), 1e3 * sum(compiled_s) / len(compiled_s), num_refused)


def _walk(
    library: Library, vocabulary: Vocabulary, compiled: Any, token_ids: Sequence[int], times: dict[int, list[float]]
) -> bool:
    """Whether all tokens were taken; notes seconds per mask, by how many are made at once."""
    [(count, noted)] = times.items()
    matchers = [library.start(compiled) for _ in range(count)]
    bits = np.zeros((count, -(-len(vocabulary.tokens) // 32)), dtype=np.int32)
    for token in token_ids:
        began_s = time.perf_counter()
        library.fill(matchers, bits)
        noted.append((time.perf_counter() - began_s) / count)
        are_taken = [library.take(matcher, token) for matcher in matchers]
        if not all(are_taken):
            return False
    return True


class Taken(NamedTuple):
    num_schemas: int
    num_refused: int
    num_invalid_taken: int  # instances: what it lets through breaks the schema
    num_valid_refused: int  # instances that it never writes: of another order, spelling, or by a fault
    num_instances: int  # of the schemas that it takes


def taken(library: Library, vocabulary: Vocabulary, suite: Path) -> Taken:
    """Of a draft's folder of the JSON-Schema-Test-Suite."""
    num_schemas = num_refused = 0
    judged: list[tuple[bool, bool]] = []  # by the library, by the suite
    for path in sorted(suite.glob("*.json")):
        for group in json.loads(path.read_text()):
            num_schemas += 1
            try:
                compiled = library.compile(group["schema"])
            except (ValueError, TypeError):
                num_refused += 1
                continue
            for test in group["tests"]:
                judged.append((_accepts(library, vocabulary, compiled, test["data"]), test["valid"]))
    return Taken(num_schemas, num_refused, judged.count((True, False)), judged.count((False, True)), len(judged))


def _accepts(library: Library, vocabulary: Vocabulary, compiled: Any, instance: Any) -> bool:
    matcher = library.start(compiled)
    token_ids = vocabulary.encode(json.dumps(instance, ensure_ascii=False))
    return all(library.take(matcher, token) for token in [*token_ids, vocabulary.eos])
