"""Whether a worker's GPU can keep keys and values in FP8, before anything is loaded.

On a CPU torch does it, slowly: configs refuse it there (`cluster.config.checks`), tests compare with it.
"""

from typing import NamedTuple

import torch

from baton.errors import ConfigError
from workers.model.cuda.launching import has_triton
from workers.spec import WorkerSpec

CAPABILITY = (8, 9)  # Ada's; Hopper has 9.0
INSTEAD = "set kv.dtype: auto, which keeps them as the model has them"


class Facts(NamedTuple):
    gpu: str  # its name
    capability: tuple[int, int]
    has_triton: bool


def check_fp8(spec: WorkerSpec, facts: Facts | None = None) -> None:
    """Raises: ConfigError: `kv.dtype: fp8` cannot be done here; says what is missing.

    Args:
        facts: None: those of the device that this process would use.
    """
    if spec.kv.dtype != "fp8" or spec.device != "cuda":
        return
    if facts is None:
        if not torch.cuda.is_available():
            return  # who loads says what is wrong
        name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
        facts = Facts(gpu=name, capability=capability, has_triton=has_triton())
    if facts.capability < CAPABILITY:
        raise ConfigError(
            f"kv.dtype: fp8 needs a GPU of compute capability {_shown(CAPABILITY)} or newer (Ada, Hopper, Blackwell), "
            f"and {facts.gpu} has {_shown(facts.capability)}; {INSTEAD}"
        )
    if not facts.has_triton:
        raise ConfigError(
            "kv.dtype: fp8 keys and values are read by Triton's kernels, and triton is not installed; install it, or "
            f"{INSTEAD}"
        )


def _shown(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
