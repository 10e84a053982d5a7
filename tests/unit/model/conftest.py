import platform
from collections.abc import Iterator
from typing import Any

import pytest

from workers.model.cpu import attention as cpu_attention
from workers.model.cpu import elementwise as cpu_elementwise
from workers.model.cpu import fused, native, panels, reduce
from workers.model.cpu import sampling as cpu_sampling

CACHES: tuple[Any, ...] = (
    native.load,
    cpu_attention._kernel,
    cpu_attention._tile_kernel,
    cpu_elementwise._library,
    cpu_sampling._library,
    fused.library,
    panels._library,
    reduce._library,
)
ISAS = [name for name in native.MARCH if name == "native" or platform.machine() in ("x86_64", "AMD64")]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The C kernels compiled for each set of instructions that this machine has."""
    name: str = request.param
    monkeypatch.setenv(native.ISA_VARIABLE, name)
    for function in CACHES:
        function.cache_clear()
    yield name
    monkeypatch.undo()
    for function in CACHES:
        function.cache_clear()
