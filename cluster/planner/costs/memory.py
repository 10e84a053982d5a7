"""Whether a worker fits its devices, and how many KV blocks it has then.

Memory of the fullest device = weights + activations of one step + KV blocks + a reserve that stays free (the CUDA
context, the allocator's fragments, communication buffers). Whatever the first two and the reserve leave is KV.
"""

from dataclasses import dataclass

MAX_MEMORY_SHARE = 0.9  # of a device that weights, activations and KV may take: vLLM's gpu_memory_utilization, default


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes on the fullest device of one worker."""

    weight_bytes: int
    activation_bytes: int  # of the largest step, and recurrent states of all sequences that may run
    token_bytes: float  # KV of one token: the device's share of it


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFit:
    """Attributes:
    num_blocks: KV blocks of the worker; 0 when the weights alone are too much.
    kv_bytes: What the blocks take on the fullest device.
    min_blocks: Blocks that the longest request of the workload needs.
    """

    footprint: Footprint
    device_bytes: int
    num_blocks: int
    kv_bytes: int
    min_blocks: int

    @property
    def fits(self) -> bool:
        return self.num_blocks >= self.min_blocks

    @property
    def needed_bytes(self) -> int:
        """The least a device must have: all but the KV of more than the longest request."""
        per_block = self.kv_bytes / self.num_blocks if self.num_blocks else 0.0
        fixed = self.footprint.weight_bytes + self.footprint.activation_bytes
        return int((fixed + per_block * self.min_blocks) / MAX_MEMORY_SHARE)

    @property
    def headroom_share(self) -> float:
        """Share of the device's memory that holds KV beyond the longest request."""
        if not self.num_blocks:
            return 0.0
        return self.kv_bytes * (1 - self.min_blocks / self.num_blocks) / self.device_bytes


def fit(footprint: Footprint, *, device_bytes: int, block_size: int, max_request_tokens: int) -> MemoryFit:
    """The blocks that a worker with this footprint has on devices of `device_bytes`.

    Args:
        max_request_tokens: Prompt and output of the longest request; a worker that cannot hold it does not fit.
    """
    left = device_bytes * MAX_MEMORY_SHARE - footprint.weight_bytes - footprint.activation_bytes
    block_bytes = footprint.token_bytes * block_size
    min_blocks = -(-(max_request_tokens + 1) // block_size)
    if left <= 0:
        num_blocks = 0
    elif block_bytes <= 0:  # nothing but recurrent states
        num_blocks = max(min_blocks, 1)
    else:
        num_blocks = int(left // block_bytes)
    return MemoryFit(
        footprint=footprint,
        device_bytes=device_bytes,
        num_blocks=num_blocks,
        kv_bytes=int(num_blocks * block_bytes),
        min_blocks=min_blocks,
    )
