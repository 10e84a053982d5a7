"""Which parts there are, most telling first. Imports nothing: `--list` works anywhere."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Its module holds `run(check: Check) -> None`."""

    name: str  # of the module in this package, or in full where it has dots
    limit_s: float  # its process is ended then, and counts as failed
    shows: str

    @property
    def module(self) -> str:
        return self.name if "." in self.name else f"bench.gpu_check.{self.name}"


PARTS = (
    Part(name="tokens", limit_s=150, shows="float32 tokens of every family equal those of transformers' generate"),
    Part(
        name="logits", limit_s=120, shows="bfloat16 logits are at most twice as far from float32 as eager attention's"
    ),
    Part(name="paths", limit_s=90, shows="FlashInfer, gathered attention and CUDA graphs against plain torch"),
    Part(name="kernels", limit_s=120, shows="the Triton kernels against torch, and what attention and sampling take"),
    Part(
        name="linear", limit_s=120, shows="linear attention, and flash-linear-attention's kernels, are the recurrences"
    ),
    Part(name="handoff", limit_s=120, shows="KV arrives bit for bit in another process, over every transport"),
    Part(name="served", limit_s=90, shows="a prefill and a decode worker answer what generate answers"),
    Part(
        name="gang", limit_s=150, shows="workers of two and four ranks that share the GPU answer what generate answers"
    ),
    Part(name="speed", limit_s=150, shows="decode and prefill of an 8 B model, as shares of what the card can do"),
    Part(name="speed_transformers", limit_s=120, shows="the same points by transformers"),
    Part(name="speed_vllm", limit_s=240, shows="the same points by vLLM, where it is installed"),
    Part(name="suite", limit_s=150, shows="the tests in tests/gpu, where pytest is installed"),
)
