"""What is told of a start: how far loading is, what memory ran out on, and which GPU is too old."""

import asyncio

import pytest
import torch

from baton.errors import ConfigError
from tests.models import tiny
from tests.unit.model.driver import make_spec
from workers.model.contract import DeviceLostError
from workers.model.device_faults import is_lost
from workers.model.device_faults import lost_devices_named as named
from workers.model.device_limits import check_gpu
from workers.model.loader import load_model
from workers.model.memory_error import Held, explained, text
from workers.model.start_report import KV, WEIGHTS, Loaded, StartReport, current, watched
from workers.starting import load


async def test_loading_tells_whoever_watches_it_from_another_thread() -> None:
    report, spec = StartReport(), make_spec(tiny("llama"))
    assert report.loaded() == Loaded(0, 0)
    with watched(report):
        loaded = await asyncio.to_thread(load_model, spec)
    size = sum(weight.nbytes for weight in loaded.model.parameters())
    assert report.loaded() == Loaded(size, size)
    assert report.parts == {WEIGHTS: size, KV: spec.engine.memory_bytes}
    assert current() is not report


def test_memory_that_runs_out_is_told_by_parts() -> None:
    report = StartReport()
    report.note(WEIGHTS, 3 << 30)
    report.note(KV, 5 << 30)
    assert text(report, Held(9 << 30, 1 << 20), "cuda") == (
        "memory ran out on cuda while the worker started: weights 3,072 MiB, KV blocks and states 5,120 MiB, "
        "workspace and CUDA graphs 1,024 MiB; 1 MiB are left"
    )


def test_a_start_without_memory_is_refused_with_what_to_lower() -> None:
    def make() -> None:
        current().note(WEIGHTS, 7 << 20)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    with (
        watched(StartReport()),
        pytest.raises(ConfigError, match=r"weights 7 MiB.*CUDA out of memory.*; lower engine.memory or engine.max_seq"),
    ):
        load(make_spec(tiny("llama")), make)  # type: ignore[arg-type]
    assert explained(ValueError("x"), StartReport(), "cpu") is None


def test_an_error_that_is_no_lack_of_memory_stays_what_it_is() -> None:
    def make() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        load(make_spec(tiny("llama")), make)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        RuntimeError("NCCL Error 1: unhandled cuda error (run with NCCL_DEBUG=INFO for details)"),
    ],
)
def test_a_device_whose_context_is_gone_is_lost(error: Exception) -> None:
    assert is_lost(error)
    outer = ValueError("a step failed")
    outer.__cause__ = error
    assert is_lost(outer)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("illegal memory access"),
        MemoryError(),
        KeyError("x"),
    ],
)
def test_other_errors_lose_no_device(error: Exception) -> None:
    assert not is_lost(error)


def test_errors_that_name_each_other_are_looked_at_once() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_lost(first)


def test_a_gpu_that_is_too_old_is_told_what_works_there() -> None:
    built = ["sm_75", "sm_80", "sm_90", "compute_90"]
    with pytest.raises(
        ConfigError, match=r"dtype: bfloat16 needs .* 8.0, this GPU \(Tesla T4, .* 7.5\).*set dtype: fl"
    ):
        check_gpu("Tesla T4", (7, 5), "bfloat16", built)
    check_gpu("Tesla T4", (7, 5), "float16", built)
    check_gpu("H200", (9, 0), "bfloat16", built)
    check_gpu("B200", (10, 0), "bfloat16", [*built, "sm_100a"])
    with pytest.raises(ConfigError, match=r"older than this build of torch knows, which needs 7.5; set device: cpu"):
        check_gpu("GTX 1080", (6, 1), "float16", built)


def test_an_error_that_means_a_lost_device_is_named_and_no_other() -> None:
    with pytest.raises(DeviceLostError, match="of no use any more: CUDA error: an illegal memory access"), named():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(ValueError, match="wrong"), named():
        raise ValueError("wrong")
