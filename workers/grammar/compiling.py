"""Makes of a grammar's text what answers follow, within limits: one request's grammar cannot hold up a worker."""

import llguidance

from baton.errors import BatonError, InternalError, InvalidRequestError

MAX_CHARACTERS = 4 << 20  # of a grammar's text; the ingress allows far less
MAX_SHOWN = 400  # characters of what the library says


def compile_grammar(vocabulary: llguidance.LLTokenizer, text: str) -> llguidance.LLMatcher:
    """At the grammar's start. Lets other threads run meanwhile.

    Raises:
        InvalidRequestError: It is too large, or no grammar, or needs more than llguidance's limits allow.
        InternalError: llguidance failed.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidRequestError(
            f"grammar: {len(text)} characters, at most {MAX_CHARACTERS} are taken; ask for less", "grammar"
        )
    try:
        matcher = llguidance.LLMatcher(vocabulary, text, log_level=0, limits=_limits())
    except Exception as error:  # llguidance has no errors of its own
        raise failed(error) from error
    if matcher.is_error():
        raise InvalidRequestError(f"grammar: {shown(matcher.get_error())}", "grammar")
    return matcher


def _limits() -> llguidance.LLParserLimits:
    """The library's own, but for errors that would print a whole grammar, or a text, into logs."""
    return llguidance.LLParserLimits(verbose_errors=False)


def failed(error: BaseException | str) -> BatonError:
    """Of one answer, whose grammar the library can follow no longer."""
    return InternalError(f"grammar: the library that follows it failed: {shown(str(error))}")


def shown(message: str) -> str:
    return message if len(message) <= MAX_SHOWN else message[:MAX_SHOWN] + " ..."
