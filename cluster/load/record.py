"""What one request did, in times of one monotonic clock."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass(slots=True, kw_only=True)
class Record:
    """Filled by a backend while the request runs.

    `token_s` has one time per message that brought tokens: its gaps are the ITLs, as vLLM's benchmark counts them.
    `error` is empty for a request that ended well.
    """

    index: int
    due_s: float  # when it should have been sent
    sent_s: float
    token_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str = ""
    is_done: bool = False  # ended, well or not; else interrupted

    @property
    def is_completed(self) -> bool:
        return self.is_done and not self.error

    @property
    def ttft_s(self) -> float:
        return self.token_s[0] - self.sent_s

    @property
    def e2el_s(self) -> float:
        """To the last token."""
        return self.token_s[-1] - self.sent_s

    @property
    def tpot_s(self) -> float:
        """Mean time per token after the first; 0 for a single token."""
        return (self.token_s[-1] - self.token_s[0]) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0

    @property
    def itls_s(self) -> list[float]:
        return [after - before for before, after in pairwise(self.token_s)]

    def detail(self, start_s: float) -> dict[str, Any]:
        """Fields of `--save-detailed`, in vLLM's names and seconds."""
        return {
            "input_lens": self.prompt_tokens,
            "output_lens": self.output_tokens,
            "start_times": self.sent_s - start_s,
            "ttfts": self.ttft_s if self.token_s else 0.0,
            "itls": self.itls_s,
            "errors": self.error,
        }
