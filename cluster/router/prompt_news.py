"""How much of a request's prompt logprobs was delivered: whichever choice and attempt tells of them, each comes once.

Invariant: `num_delivered` never goes back, and an attempt starts at it or before. So there are no gaps: attempts of
several choices may each tell all, in order, and what came before is cut off.
"""

from dataclasses import dataclass

from baton.v1.worker_pb2 import TokenOutput


@dataclass(slots=True)
class PromptNews:
    """
    Attributes:
        num_tokens: Of the prompt.
        num_delivered: Of its tokens, the first one counted, of which nothing is told.
    """

    num_tokens: int
    num_delivered: int = 1

    @property
    def is_whole(self) -> bool:
        return self.num_delivered >= self.num_tokens

    def cut(self, output: TokenOutput) -> None:
        """Takes off the output what was delivered before, and books the rest."""
        if not output.HasField("prompt_logprobs"):
            return
        news = output.prompt_logprobs
        num_old = self.num_delivered - news.start
        assert num_old >= 0, f"{output.request_id}: prompt logprobs from {news.start}, after {self.num_delivered}"
        if num_old >= len(news.logprobs):
            output.ClearField("prompt_logprobs")
            return
        if num_old:
            del news.logprobs[:num_old]
            del news.ranks[:num_old]
            del news.top_token_ids[: num_old * news.num_top]
            del news.top_logprobs[: num_old * news.num_top]
            news.start = self.num_delivered
        self.num_delivered += len(news.logprobs)
