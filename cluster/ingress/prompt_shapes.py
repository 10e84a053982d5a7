"""How answers show their prompts: OpenAI's `echo`, in front of what is written, and vLLM's `prompt_logprobs`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.ingress.echo import Echo
from cluster.ingress.logprob_json import finite
from cluster.ingress.prompt_tokens import PromptToken
from cluster.ingress.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptView:
    """What a client of /v1/completions wants to see of its prompts; choices are numbered prompt by prompt.

    Attributes:
        echoes: Of each prompt; empty: answers do not begin with them.
        num_choices: Of each prompt.
        logprobs: The most likely tokens at each place of an echoed prompt; None: it is shown as text alone.
        prompt_logprobs: The same in vLLM's shape; None: not wanted.
    """

    echoes: Sequence[Echo] = ()
    num_choices: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def locate(self) -> None:
        """Finds out ahead of events what takes long of long prompts: their texts, and where tokens lie in them."""
        for echo in self.echoes:
            _ = echo.text if self.logprobs is None else echo.offsets

    def echo(self, choice: int) -> Echo | None:
        return self.echoes[choice // self.num_choices] if self.echoes else None


def prompt_logprobs(
    tokens: Sequence[PromptToken], tokenizer: Tokenizer, num_top: int | None = None
) -> list[dict[str, Any] | None]:
    """vLLM's shape: null for a prompt's first token, then of each token itself and the most likely ones, by id."""
    return [None if token.logprob is None else _by_id(token, tokenizer, num_top) for token in tokens]


def _by_id(token: PromptToken, tokenizer: Tokenizer, num_top: int | None) -> dict[str, Any]:
    ranked = [(token.token_id, token.logprob or 0.0, token.rank)]
    tops = enumerate(token.top[:num_top], 1)
    ranked += [(token_id, logprob, rank) for rank, (token_id, logprob) in tops if token_id != token.token_id]
    return {
        str(token_id): {"logprob": finite(logprob), "rank": rank, "decoded_token": tokenizer.token_text(token_id)}
        for token_id, logprob, rank in ranked
    }
