"""What a GPU is too old for, by its compute capability."""

from collections.abc import Sequence

from baton.errors import ConfigError

Capability = tuple[int, int]
LEAST = {"bfloat16": (8, 0)}  # whose products such a GPU has
ELSE = {"bfloat16": "float16 or float32"}


def check_gpu(name: str, capability: Capability, dtype: str, built_for: Sequence[str]) -> None:
    """
    Args:
        name: Of the GPU.
        dtype: Of the config.
        built_for: Architectures that torch has kernels for, as it names them: sm_80, compute_90.
    Raises:
        ConfigError: The GPU is too old for torch, or for the dtype; says what works there.
    """
    shown = f"this GPU ({name}, compute capability {capability[0]}.{capability[1]})"
    numbers = [int(digits) for arch in built_for if (digits := "".join(filter(str.isdigit, arch)))]
    if numbers and capability[0] * 10 + capability[1] < min(numbers):
        raise ConfigError(
            f"device: {shown} is older than this build of torch knows, which needs {min(numbers) / 10:g}; set device: "
            "cpu, or install a build of torch for it"
        )
    least = LEAST.get(dtype)
    if least is not None and capability < least:
        raise ConfigError(
            f"dtype: {dtype} needs compute capability {least[0]}.{least[1]}, {shown} has no products in it; set dtype: "
            f"{ELSE[dtype]}"
        )
