"""A token and its logprob as OpenAI's chats and responses write it."""

from typing import Any

from baton.v1 import inference_pb2
from cluster.ingress.tokenizer import Tokenizer

LOWEST_LOGPROB = -9999.0  # JSON has no minus infinity


def token_json(token: inference_pb2.TokenLogprob, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "token": tokenizer.token_text(token.token_id),
        "logprob": finite(token.logprob),
        "bytes": list(tokenizer.token_bytes(token.token_id)),
    }


def finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)
