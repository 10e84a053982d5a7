"""How likely a prompt's tokens are, from workers' messages to what answers' shapes read."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from baton.v1 import inference_pb2, worker_pb2
from cluster.ingress.tokenizer import Tokenizer

MAX_PIECE = 128  # tokens told at once, with up to 20 likely ones each: 3 ms as JSON


class PromptToken(NamedTuple):
    """One token of a prompt. Of the first one nothing is known: its `logprob` is None."""

    token_id: int
    logprob: float | None = None
    rank: int = 0  # among all tokens at its place, from 1
    top: Sequence[tuple[int, float]] = ()  # (token id, logprob), most likely first


class PromptReader:
    """One prompt's tokens in order, each once, as workers tell of them."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids = token_ids
        self._num_told = 0

    @property
    def is_done(self) -> bool:
        return self._num_told >= len(self._token_ids)

    def pieces(self, outputs: Sequence[worker_pb2.TokenOutput]) -> Iterator[tuple[int, list[PromptToken]]]:
        """What these outputs tell of it, with the place of its first token; the first output of all tells of the first
        token."""
        for output in outputs:
            piece = [] if self._num_told else [PromptToken(self._token_ids[0])]
            if output.HasField("prompt_logprobs"):
                piece += self._read(output.prompt_logprobs)
            for start in range(0, len(piece), MAX_PIECE):
                shown = piece[start : start + MAX_PIECE]
                yield self._num_told, shown
                self._num_told += len(shown)

    def _read(self, news: worker_pb2.PromptLogprobs) -> Iterator[PromptToken]:
        token_ids = self._token_ids[news.start : news.start + len(news.logprobs)]
        tops = list(zip(news.top_token_ids, news.top_logprobs, strict=True))
        for place, (token_id, logprob, rank) in enumerate(zip(token_ids, news.logprobs, news.ranks, strict=True)):
            yield PromptToken(token_id, logprob, rank, tops[place * news.num_top : (place + 1) * news.num_top])


def to_message(token: PromptToken, tokenizer: Tokenizer) -> inference_pb2.TokenLogprobs:
    text = tokenizer.token_text
    own = inference_pb2.TokenLogprob(
        token_id=token.token_id, logprob=token.logprob or 0.0, text=text(token.token_id), rank=token.rank
    )
    top = [
        inference_pb2.TokenLogprob(token_id=token_id, logprob=logprob, text=text(token_id), rank=rank)
        for rank, (token_id, logprob) in enumerate(token.top, 1)
    ]
    return inference_pb2.TokenLogprobs(sampled=own, top=top)
