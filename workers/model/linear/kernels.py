"""The choice of kernels on CUDA: `flash-linear-attention`'s where it is installed and does the same, else none.

Theirs multiply in 16 bits or tf32: they are taken for bfloat16 and float16 alone. A float32 model, and any other
device, stays with `workers.model.linear.chunks`. Their own context parallelism is not used, it knows no state before
or after; the plain operators take and give one.
"""

import importlib
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

# q, k, v, log_decay, beta, state -> outputs, state after: as `workers.model.linear.scan.scan`.
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor], tuple[Tensor, Tensor]]

DTYPES = (torch.bfloat16, torch.float16)
MAX_KEY_DIM = 256
# Their sums of log decays are float32, and differences of them are taken: a gate of 0 comes as e^-50.
LEAST_LOG_DECAY = -50.0


def kernel_for(q: Tensor, log_decay: Tensor | None, beta: Tensor | None) -> Kernel | None:
    """None: there is none for this device, type or size."""
    fits = q.is_cuda and q.dtype in DTYPES and len(q) > 0 and q.shape[-1] <= MAX_KEY_DIM
    if not fits or importlib.util.find_spec("fla") is None:
        return None
    return _run


def _run(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, beta: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    package, name = _OPERATORS[beta is not None, 0 if log_decay is None else log_decay.dim()]
    operator = getattr(importlib.import_module(f"fla.ops.{package}"), name)
    gates = {} if log_decay is None else {"g": log_decay.float().clamp(min=LEAST_LOG_DECAY)[None]}
    if beta is not None:
        gates["beta"] = beta[None]
    out, after = operator(
        q[None], k[None], v[None], **gates, scale=1.0, initial_state=state[None], output_final_state=True
    )
    return out[0].to(v.dtype), after[0]


# By: delta rule, dimensions of the log decay.
_OPERATORS = {
    (False, 0): ("simple_gla", "chunk_simple_gla"),
    (False, 2): ("simple_gla", "chunk_simple_gla"),
    (False, 3): ("gla", "chunk_gla"),
    (True, 0): ("delta_rule", "chunk_delta_rule"),
    (True, 2): ("gated_delta_rule", "chunk_gated_delta_rule"),
    (True, 3): ("kda", "chunk_kda"),
}
