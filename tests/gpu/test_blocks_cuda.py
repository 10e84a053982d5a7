"""Blocks on a CUDA device: moved by the kernel as by torch, by way of pinned memory and back, without waiting."""

import pytest
import torch

from tests.unit.model.cuda.test_blocks import all_of, same_bytes, spans_of
from tests.unit.model.cuda.test_blocks import make_store as make_cpu_store
from workers.kv_transfer.cuda import CudaFence, cuda_begin, cuda_scope, pinned
from workers.kv_transfer.fences import Gaps
from workers.kv_transfer.staging import Ring, Staging
from workers.model.cuda import blocks
from workers.model.kv_store import TorchKVStore

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CUDA = torch.device("cuda")


def make_store(*, has_mover: bool) -> TorchKVStore:
    return make_cpu_store(has_mover=has_mover, device=CUDA)


def test_the_kernel_works_here() -> None:
    assert blocks.works(torch.empty(0, device=CUDA).device)


def test_reads_writes_and_copies_are_those_of_torch() -> None:
    found = []
    for has_mover in (True, False):
        source, target = make_store(has_mover=has_mover), make_store(has_mover=has_mover)
        spans = spans_of(source)
        sizes = [source.payloads[span.index].unit_nbytes * (span.end - span.start) for span in spans]
        payloads = list(torch.split(source.empty_payload(sum(sizes)), sizes))
        source.read_all(spans, payloads)
        target.write_all(spans, payloads)
        target.copy_blocks([(0, 1), (1, 2), (8, 0)])
        target.copy_tokens([(35, 13), (13, 14), (14, 0)])
        target.copy_states([(4, 0), (0, 1)])
        found.append([*payloads, *all_of(target)])
    assert all(same_bytes(a, b) for a, b in zip(*found, strict=True))


def test_payloads_go_by_way_of_the_host_on_the_links_stream() -> None:
    source, target = make_store(has_mover=True), make_store(has_mover=True)
    for tensor in all_of(target):
        tensor.zero_()
    spans = spans_of(source)
    sizes = [source.payloads[span.index].unit_nbytes * (span.end - span.start) for span in spans]
    torch.cuda.synchronize()
    with cuda_scope():
        out, into = (Staging(store, Ring(pinned, cuda_begin, buffer_bytes=100)) for store in (source, target))
        places = [bytearray(size) for size in sizes]
        out.read_all(spans, [memoryview(place) for place in places])
        target.write_all(spans, into.on_device([bytes(place) for place in places]))
        torch.cuda.current_stream().synchronize()
    for index, span in enumerate(spans):
        want, found = (store.read(index, span.block_ids, span.start, span.end) for store in (source, target))
        assert same_bytes(want, found)
        assert want.cpu().numpy().tobytes() == bytes(places[index])


def test_gaps_are_the_devices_time() -> None:
    gaps = Gaps()
    begin = CudaFence()
    torch.cuda._sleep(20_000_000)  # some 10 ms
    gaps.add(begin, CudaFence())
    assert gaps.settled() == []
    torch.cuda.synchronize()
    (seconds,) = gaps.settled()
    assert 0.002 < seconds < 1.0
