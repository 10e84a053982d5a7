"""One worker's grammars: the model's vocabulary, what was compiled for it, and the threads that compile and mask."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import llguidance

from baton.errors import BatonError
from workers.engine.following import Follower
from workers.grammar.cache import CompiledCache
from workers.grammar.compiling import compile_grammar, failed
from workers.grammar.follower import GrammarFollower
from workers.grammar.masks import StepMasks
from workers.grammar.vocabulary import has_vocabulary, load_vocabulary
from workers.model.contract import SampleRow, TokenMasks

logger = logging.getLogger(__name__)
MAX_COMPILED = 64  # a large one may take megabytes
MAX_COMPILED_CHARACTERS = 16 << 20


class Vocabulary(Protocol):
    """Of `workers.model.contract.ModelRunner`."""

    vocab_size: int
    eos_token_ids: frozenset[int]


class GrammarBook:
    """Implements `workers.engine.following.Grammars`. Nothing is loaded before `begin`, or the first grammar.

    Args:
        folder: The model's, with a tokenizer.json.
        unpacks: Masks are used by this machine's processor, not by a GPU.
        num_threads: That make one step's masks.
    """

    def __init__(self, folder: Path, model: Vocabulary, *, unpacks: bool = True, num_threads: int = 1) -> None:
        self._folder = folder
        self._vocab_size, self._eos_token_ids = model.vocab_size, model.eos_token_ids
        self._unpacks = unpacks
        self._cache: CompiledCache[GrammarFollower] = CompiledCache(MAX_COMPILED, MAX_COMPILED_CHARACTERS)
        self._compiler = ThreadPoolExecutor(1, "grammar-compiler")
        self._masker = ThreadPoolExecutor(1, "grammar-masks")
        self._executor = llguidance.LLExecutor(num_threads)
        self._loading: Future[llguidance.LLTokenizer] | None = None
        self._num_tokens = 0  # of the vocabulary, once one has been compiled for it

    def begin(self) -> None:
        """Loads the vocabulary beside what else goes on. Idempotent."""
        if self._loading is None:
            self._loading = self._compiler.submit(load_vocabulary, self._folder, self._vocab_size, self._eos_token_ids)

    def follower(self, text: str, done: Callable[[Follower | BatonError], None]) -> Follower | BatonError | None:
        found = self._cache.get(text)
        if found is not None:
            return found.copy()

        def told(found: GrammarFollower | Exception) -> None:
            done(_copied(found))

        if self._cache.wait(text, told):
            self.begin()
            self._compiler.submit(self._compile, text)
        return None

    def _compile(self, text: str) -> None:
        try:
            assert self._loading is not None
            vocabulary = self._loading.result()
            self._num_tokens = vocabulary.vocab_size
            follower = GrammarFollower(compile_grammar(vocabulary, text), frozenset(vocabulary.eos_tokens))
        except Exception as error:
            self._cache.settle(text, error)
        except BaseException as error:  # what the library's panics become: no error of the interpreter's
            logger.exception("a grammar's library panicked")
            self._cache.settle(text, failed(error))
        else:
            self._cache.settle(text, follower)

    def masks(self, rows: Sequence[SampleRow], followers: Sequence[Follower | None]) -> TokenMasks | None:
        ours = [one if isinstance(one, GrammarFollower) else None for one in followers]
        if not any(ours):
            return None
        return StepMasks(
            rows,
            ours,
            num_tokens=self._num_tokens,
            vocab_size=self._vocab_size,
            thread=self._masker,
            llguidance_threads=self._executor,
            unpacks=self._unpacks,
        )

    def close(self) -> None:
        """What is being compiled still ends."""
        self._compiler.shutdown(wait=False)
        self._masker.shutdown(wait=False)


def _copied(found: GrammarFollower | Exception) -> Follower | BatonError:
    """Never raises: others wait to be told, too."""
    if isinstance(found, BatonError):
        return found
    try:
        return found.copy() if isinstance(found, GrammarFollower) else failed(found)
    except BaseException as error:  # a panic of the library's
        return failed(error)


def grammar_book(folder: Path, model: Vocabulary, *, device: str, num_threads: int = 1) -> GrammarBook | None:
    """None: the model has no tokenizer, so that nobody knows what its tokens mean."""
    if not has_vocabulary(folder):
        return None
    return GrammarBook(folder, model, unpacks=device == "cpu", num_threads=num_threads)
