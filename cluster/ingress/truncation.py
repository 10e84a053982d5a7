"""Prompts cut from the left, where a request asks for it: `truncate_prompt_tokens`, as in vLLM."""

from collections.abc import Sequence

from baton.errors import InvalidRequestError
from cluster.ingress.openai import CompletionBody, Prompt
from cluster.ingress.sampling import Limits

FIELD = "truncate_prompt_tokens"
AS_MUCH_AS_FITS = -1


def num_kept(body: CompletionBody, limits: Limits) -> int | None:
    """How many tokens of each prompt are read, the last ones; None: all. Raises: InvalidRequestError."""
    asked = body.truncate_prompt_tokens
    if asked is None or asked >= 1:
        return asked
    if asked != AS_MUCH_AS_FITS:
        raise InvalidRequestError(f"{FIELD} is {asked}; it must be -1 (as many as fit), or at least 1", field=FIELD)
    num_answered = body.said.get("max_tokens")
    return max(1, limits.max_tokens - (1 if num_answered is None else num_answered))


def truncated(prompt: Prompt, token_ids: Sequence[int], kept: int | None) -> tuple[Prompt, Sequence[int]]:
    """The prompt that is read, and its ids: the text of one that is cut is that of its ids."""
    if kept is None or len(token_ids) <= kept:
        return prompt, token_ids
    token_ids = token_ids[-kept:]
    return Prompt(token_ids=tuple(token_ids)), token_ids
