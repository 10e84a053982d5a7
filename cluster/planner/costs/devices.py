"""Devices that the planner knows: what their makers say of them, and how much of it kernels reach.

FLOP/s are dense ones (makers' tables with sparsity, halved); bandwidths are of one direction, in bytes/s. Memory is
what the driver reports as total where that is known, else the maker's figure.
"""

from dataclasses import dataclass

from baton.errors import ConfigError

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What kernels reach of a device, and what a step takes beside them; one set per family of devices.

    Shares are of the maker's figures; `bench.roofline_error` shows how far the whole is from measured points.
    """

    compute: float  # of FLOP/s, in matrix products of many rows
    fp8_compute: float  # of fp8 FLOP/s, the same
    attention_compute: float  # of FLOP/s, in attention over prompts
    memory: float  # of memory bandwidth, reading weights
    kv_memory: float  # of memory bandwidth, reading KV
    experts: float  # of what other products reach, in those of routed experts
    link: float  # of link bandwidth, in all-reduce and transfers
    all_reduce_s: float  # latency of one
    layer_s: float  # launches and small kernels of one layer
    step_s: float  # scheduler, sampling, inputs and outputs of one step
    token_s: float  # the same for each sequence that decodes
    overlaps: bool = True  # weights are read while others are computed with


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """`price_per_h` in US$; None: not known. `fp8_flops` None: 8-bit weights are computed in bfloat16.

    `runtime`: the config's `device` for it.
    """

    name: str
    memory_bytes: int
    bf16_flops: float
    memory_bandwidth: float
    link_bandwidth: float  # to another device of its node
    network_bandwidth: float  # to a device of another node
    efficiency: Efficiency
    fp8_flops: float | None = None
    link_latency_s: float = 10e-6
    network_latency_s: float = 30e-6
    price_per_h: float | None = None
    runtime: str = "cuda"

    def check_kv_dtype(self, kv_dtype: str, key: str) -> None:
        """Raises: ConfigError: it cannot read keys and values of the config's `kv.dtype`; `key` says where that is."""
        if kv_dtype == "fp8" and self.fp8_flops is None:
            able = ", ".join(device.name for device in _ALL if device.fp8_flops is not None)
            raise ConfigError(f"{key}: {kv_dtype}: {self.name} has no FP8, {able} have; set it to auto")


def known_device(name: str) -> DeviceSpec:
    """The device of that name, whatever its case.

    Raises:
        ConfigError: The name is unknown; the message lists the known.
    """
    device = DEVICES.get(name.lower())
    if device is None:
        raise ConfigError(f"hardware {name!r} is not known; give one of: {', '.join(DEVICES)}")
    return device


# Shares from the kernel tables of NVIDIA's aiconfigurator (systems/data, vLLM 0.14, medians of large shapes): weights
# 0.7 of bandwidth, attention over prompts 0.5, KV 0.6, NCCL's large all-reduces 0.7 of the link. Products are 0.87 of
# FLOP/s alone; 0.65, launches and small all-reduces (NCCL: 10 to 20 us) lean towards DistServe's fits of an engine.
_AMPERE = Efficiency(
    compute=0.65,
    fp8_compute=0.5,
    attention_compute=0.5,
    memory=0.7,
    kv_memory=0.6,
    experts=0.6,
    link=0.7,
    all_reduce_s=15e-6,
    layer_s=40e-6,
    step_s=1.5e-3,
    token_s=10e-6,
)
# As above, vLLM 0.14 to 0.24: products 0.78 (fp8 0.5) less a tenth for the norms, rotations and activations around
# them, weights 0.78, attention over prompts 0.53, KV 0.68, large all-reduces 0.7 to 1 of the link, small ones 3 to
# 5 us. Routed experts, launches, the step and the host's work for each sequence by serving runs of TensorRT-LLM, vLLM
# and SGLang (silicon_sample.csv); clients that wait for their first token are not counted as a batch there.
_HOPPER = Efficiency(
    compute=0.7,
    fp8_compute=0.45,
    attention_compute=0.53,
    memory=0.78,
    kv_memory=0.68,
    experts=0.6,
    link=0.75,
    all_reduce_s=5e-6,
    layer_s=25e-6,
    step_s=0.5e-3,
    token_s=15e-6,
)
# By `python -m bench.engine` on a quiet machine (the README, 150 M parameters): 7.1, 13.6 and 36.9 ms per decode
# step at batch 1, 16 and 64, 816 ms for a prompt of 2,048 tokens.
_CPU = Efficiency(
    compute=0.85,
    fp8_compute=0.85,
    attention_compute=0.7,
    memory=1.0,
    kv_memory=0.5,
    experts=0.6,
    link=0.8,
    all_reduce_s=50e-6,
    layer_s=50e-6,
    step_s=0.5e-3,
    token_s=0.06e-3,
    overlaps=False,
)

_ALL = (
    # NVIDIA A100 80GB data sheet (SXM): 312 TFLOPS bf16, 2,039 GB/s, NVLink 600 GB/s both ways; DGX A100 data sheet:
    # one 200 Gb/s ConnectX-6 per GPU. nvidia-smi: 81,920 MiB.
    DeviceSpec(
        name="a100-80g",
        memory_bytes=81_920 * MIB,
        bf16_flops=312e12,
        memory_bandwidth=2.039e12,
        link_bandwidth=300e9,
        network_bandwidth=25e9,
        efficiency=_AMPERE,
    ),
    # NVIDIA H100 data sheet (SXM): 1,979 TFLOPS bf16 and 3,958 fp8 with sparsity, 3.35 TB/s, NVLink 900 GB/s both ways;
    # DGX H100 data sheet: one 400 Gb/s ConnectX-7 per GPU. nvidia-smi: 81,559 MiB.
    DeviceSpec(
        name="h100",
        memory_bytes=81_559 * MIB,
        bf16_flops=989.5e12,
        fp8_flops=1979e12,
        memory_bandwidth=3.35e12,
        link_bandwidth=450e9,
        network_bandwidth=50e9,
        efficiency=_HOPPER,
    ),
    # NVIDIA H200 data sheet (SXM): as H100, with 141 GB at 4.8 TB/s; DGX H200 data sheet: 400 Gb/s per GPU.
    DeviceSpec(
        name="h200",
        memory_bytes=141 * 10**9,
        bf16_flops=989.5e12,
        fp8_flops=1979e12,
        memory_bandwidth=4.8e12,
        link_bandwidth=450e9,
        network_bandwidth=50e9,
        efficiency=_HOPPER,
    ),
    # NVIDIA DGX B200 data sheet, an eighth of the system: 1,440 GB at 64 TB/s, 72 PFLOPS fp8 with sparsity (bf16 is
    # half), NVLink 14.4 TB/s both ways, 400 Gb/s per GPU. Its efficiencies are Hopper's: none were measured.
    DeviceSpec(
        name="b200",
        memory_bytes=180 * 10**9,
        bf16_flops=2.25e15,
        fp8_flops=4.5e15,
        memory_bandwidth=8e12,
        link_bandwidth=900e9,
        network_bandwidth=50e9,
        efficiency=_HOPPER,
    ),
    # Two cores of an AMD EPYC 9005 (Zen 5) in a virtual machine: 128 bfloat16 operations a cycle and core (two AVX-512
    # dot products of 32 pairs) at 4.1 GHz; bandwidth as its decode steps read weights, between workers as they copy
    # shared memory (docs/kv_transfer.md, quiet machine). Network: 10 Gb/s.
    DeviceSpec(
        name="epyc-2c",
        memory_bytes=16 * GIB,
        bf16_flops=1.05e12,
        memory_bandwidth=52e9,
        link_bandwidth=10.9e9,
        network_bandwidth=1.25e9,
        efficiency=_CPU,
        runtime="cpu",
    ),
    # NVIDIA L4 data sheet: 242 TFLOPS bf16 and 485 fp8 with sparsity, 24 GB at 300 GB/s, PCIe 4.0 x16 (64 GB/s both
    # ways). Network: a 100 Gb/s card for eight. Its efficiencies are Ampere's: none were measured.
    DeviceSpec(
        name="l4",
        memory_bytes=24 * 10**9,
        bf16_flops=121e12,
        fp8_flops=242.5e12,
        memory_bandwidth=300e9,
        link_bandwidth=32e9,
        network_bandwidth=1.5e9,
        efficiency=_AMPERE,
    ),
)
DEVICES = {device.name: device for device in _ALL}
