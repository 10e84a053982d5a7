"""Compiles the Triton kernels for a GPU that need not be there, and says what each takes of it.

python -m bench.kernels                  # for compute capability 9.0, as an H100 or H200 has
python -m bench.kernels --capability 80 --only decode

Registers of a thread (255 at most; what is beyond is spilled to memory), shared memory of a block, and which
instructions multiply: wgmma is Hopper's, mma older ones'. Needs Triton (make kernels) and no GPU.
"""

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.machine import Quick, announce

INT, INTS, LONGS, FLOAT, FLOATS = "i32", "*i32", "*i64", "fp32", "*fp32"
HEAD_DIMS = (64, 128, 256)
MOST_SPILLED = 64  # bytes of a thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One kernel with one set of constants.

    Attributes:
        types: Of each argument that is no constant, as Triton writes them.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    least_capability: int = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """Attributes:
    spilled: Bytes of a thread's stack.
    shared: Bytes of a block.
    products: Instructions by kind.
    """

    name: str
    registers: int
    spilled: int
    shared: int
    products: Mapping[str, int]
    took_s: float


def variants() -> Iterator[Variant]:
    yield from ragged_variants()
    yield from elementwise_variants()
    yield from sampling_variants()
    yield from penalty_variants()
    yield from block_variants()
    yield from scaled_variants()


def sampling_variants() -> Iterator[Variant]:
    from workers.model.cuda.kernels import sampling as kernels
    from workers.model.cuda.sampling import BLOCK, NARROW

    floats, ints = dict.fromkeys(("logits", "numbers", "near_y"), FLOATS), dict.fromkeys(("keys", "near_ids"), INTS)
    yield Variant(
        name="choose",
        kernel=kernels.choose,
        types={**floats, **ints, "token_ids": LONGS, "row_stride": INT, "vocab_size": INT},
        constants={"BLOCK": BLOCK, "NARROW": NARROW},
        num_warps=8,
    )


def penalty_variants() -> Iterator[Variant]:
    from workers.model.cuda.kernels import penalties as kernels
    from workers.model.cuda.penalties import BLOCK

    tensors = {**dict.fromkeys(("logits", "out", "floats"), FLOATS), "ints": INTS, "pending": LONGS}
    yield Variant(
        name="penalties",
        kernel=kernels.adjust,
        types={**tensors, **dict.fromkeys(("row_stride", "out_stride", "vocab_size"), INT)},
        constants={"HAS_PENDING": True, "BLOCK": BLOCK},
    )


def block_variants() -> Iterator[Variant]:
    from workers.model.cuda.blocks import TILE, WIDTHS
    from workers.model.cuda.kernels import blocks as kernels

    for to_blocks, name in ((False, "gather"), (True, "scatter")):
        for is_wide in (True, False):
            yield Variant(
                name=f"{name} blocks{'' if is_wide else ', by single words'}",
                kernel=kernels.move,
                types={"like": LONGS, "table": LONGS, "ids": LONGS},
                constants={"TO_BLOCKS": to_blocks, "IS_WIDE": is_wide, "ROWS": TILE // WIDTHS[-1], "WORDS": WIDTHS[-1]},
            )


def scaled_variants() -> Iterator[Variant]:
    from workers.model.cuda.kernels import scaled as kernels

    half = dict.fromkeys(("x", "bias", "y"), "*bf16")
    sizes = dict.fromkeys(("rows", "outputs", "inputs", "row_span", "column_span"), INT)
    strides = dict.fromkeys(("x_stride", "y_stride", "value_stride", "scale_stride"), INT)
    for stored, name in (("*fp8e4nv", "FP8"), ("*i8", "int8")):
        least = 89 if name == "FP8" else 80
        for outputs, rows in ((16, 16), (32, 16), (64, 64), (128, 64)):
            yield Variant(
                name=f"scaled multiply, {name}, {outputs} x {rows}",
                kernel=kernels.multiply,
                types={**half, **sizes, **strides, "values": stored, "scales": FLOATS},
                constants={
                    "HAS_BIAS": False,
                    "ADDS": True,
                    "IS_EVEN": True,
                    "PRECISION": "ieee",
                    "BLOCK_N": outputs,
                    "BLOCK_M": rows,
                    "BLOCK_K": 128,
                },
                num_warps=8 if outputs == 128 else 4,
                num_stages=4,
                least_capability=least,
            )
        yield Variant(
            name=f"scaled dequantize, {name}",
            kernel=kernels.dequantize,
            types={**sizes, **strides, "values": stored, "scales": FLOATS, "out": "*bf16"},
            constants={"IS_EVEN": True, "BLOCK_N": 16, "BLOCK_K": 128},
            least_capability=least,
        )


def elementwise_variants() -> Iterator[Variant]:
    from workers.model.cuda.kernels import elementwise as kernels

    half = "*bf16"
    yield Variant(
        name="rms_norm, 4,096 wide",
        kernel=kernels.rms_norm,
        types={"x": half, "weight": FLOATS, "out": half, "x_stride": INT, "width": INT, "eps": FLOAT},
        constants={"BLOCK": 4096},
        num_warps=8,
    )
    yield Variant(
        name="silu_mul",
        kernel=kernels.silu_mul,
        types={"x": half, "out": half, "width": INT},
        constants={"BLOCK": 1024},
    )
    pointers = dict.fromkeys(("qkv", "cos", "sin", "query", "keys", "values"), half)
    norms = dict.fromkeys(("query_norm", "key_norm"), FLOATS)
    rest = {"slots": LONGS, "inverses": FLOATS, "num_heads": INT, "num_kv_heads": INT, "eps": FLOAT}
    for name, has_norms, kept in (("", False, half), (", norms of heads", True, half), (", FP8", True, "*u8")):
        yield Variant(
            name=f"rotate_and_write{name}",
            kernel=kernels.rotate_and_write,
            types={**pointers, **norms, **rest, "keys": kept, "values": kept},
            constants={"HEAD_DIM": 128, "HALF": 64, "HEADS": 8, "HAS_NORMS": has_norms, "HAS_SCALES": kept == "*u8"},
        )


def ragged_variants() -> Iterator[Variant]:
    import torch

    from workers.model.cuda.kernels import ragged as kernels
    from workers.model.cuda.ragged import TILES, tiling

    common = {"units": INTS, "tiles": INTS, "max_tiles": INT, "num_kv_heads": INT, "output_stride": INT}
    partial = {"partial_sums": FLOATS, "partial_stats": FLOATS}
    rest = {"seen": LONGS, "positions": LONGS, "k_scales": FLOATS, "v_scales": FLOATS}
    rest |= dict.fromkeys(("tables", "table_start", "firsts"), INTS)
    numbers = {"scale": FLOAT, "softcap": FLOAT, "window": INT}
    strides = dict.fromkeys(("query_stride", "key_block_stride", "key_stride"), INT)
    bare = dict.fromkeys(("HAS_CAP", "HAS_WINDOW", "HAS_TREES", "HAS_SCALES", "HAS_SINKS"), False)
    everything = {**bare, "HAS_CAP": True, "HAS_WINDOW": True, "HAS_TREES": True, "HAS_SINKS": True}
    cases: list[tuple[str, float, int, str, str, Mapping[str, bool]]] = [
        *((f"decode, heads of {dim}", 1, dim, "bf16", "bf16", bare) for dim in HEAD_DIMS),
        *((f"prompt, heads of {dim}", 512, dim, "bf16", "bf16", bare) for dim in HEAD_DIMS),
        ("decode, FP8", 1, 128, "bf16", "fp8e4nv", {**bare, "HAS_SCALES": True}),
        ("prompt, FP8", 512, 128, "bf16", "fp8e4nv", {**bare, "HAS_SCALES": True}),
        ("decode, all options", 1, 128, "bf16", "bf16", everything),
        ("prompt, all options", 512, 128, "bf16", "bf16", everything),
        ("decode, float32", 1, 128, "fp32", "fp32", bare),
        ("prompt, float32", 512, 128, "fp32", "fp32", bare),
    ]
    for name, rows, dim, dtype, kept, options in cases:
        chosen = tiling(rows, 4, dim, torch.float32 if dtype == "fp32" else torch.bfloat16)
        pointers = {"query": f"*{dtype}", "output": f"*{dtype}", "sinks": f"*{dtype}"}
        shape = {"GROUP": 4, "HEAD_DIM": dim, "DIM": dim, "BLOCK_M": chosen.rows}
        yield Variant(
            name=f"attend, {name}, {chosen.rows} x {chosen.keys}",
            kernel=kernels.attend,
            types={
                **common,
                **partial,
                **rest,
                **numbers,
                **strides,
                **pointers,
                "keys": f"*{kept}",
                "values": f"*{kept}",
            },
            constants={**shape, **options, "BLOCK_N": chosen.keys, "BLOCK_SIZE": 16, "PRECISION": "ieee"},
            num_warps=chosen.num_warps,
            num_stages=chosen.num_stages,
            least_capability=89 if kept.startswith("fp8") else 80,
        )
    yield Variant(
        name="merge, decode",
        kernel=kernels.merge,
        types={**common, **partial, "output": "*bf16", "sinks": "*bf16", "num_programs": INT},
        constants={"GROUP": 4, "HEAD_DIM": 128, "DIM": 128, "BLOCK_M": 16, "HAS_SINKS": False},
    )
    lists = dict.fromkeys(("query_start", "num_context", "is_tree", "units", "tiles", "firsts"), INTS)
    counts = dict.fromkeys(("num_chunks", "max_tiles", "num_programs", "num_kv_heads", "window", "num_halvings"), INT)
    yield Variant(
        name="plan",
        kernel=kernels.plan,
        types={**lists, **counts},
        constants={"BLOCK_Q": 4, "BLOCK_N": 64, "TILES": TILES},
    )


def compile_for(variant: Variant, capability: int) -> Compiled:
    """Raises: whatever Triton says of a kernel that it cannot compile."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    began_s = time.perf_counter()
    names = variant.kernel.arg_names
    signature = {name: "constexpr" if name in variant.constants else variant.types[name] for name in names}
    # As a launch finds them: tensors begin at, and strides are, multiples of 16.
    aligned = [name for name in names if signature[name].startswith("*") or name.endswith("stride")]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(variant.kernel, signature, constexprs=dict(variant.constants), attrs=attributes)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, spilled = _usage(kernel.asm["cubin"])
    code = kernel.asm["ptx"]
    products = {
        name: len(re.findall(pattern, code)) for name, pattern in (("wgmma", r"wgmma\.mma"), ("mma", r"\bmma\.sync"))
    }
    return Compiled(
        name=variant.name,
        registers=registers,
        spilled=spilled,
        shared=kernel.metadata.shared,
        products={name: count for name, count in products.items() if count},
        took_s=time.perf_counter() - began_s,
    )


def _usage(binary: bytes) -> tuple[int, int]:
    """Registers and stack of a thread, as the disassembler that comes with Triton says."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        said = subprocess.run([str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True)
    text = said.stdout + said.stderr
    found = [re.search(rf"{word}:(\d+)", text) for word in ("REG", "STACK")]
    registers, spilled = (int(match.group(1)) if match else 0 for match in found)
    return registers, spilled


def main(
    capability: Annotated[int, typer.Option(help="Of the GPU: 80, 89, 90, 100.")] = 90,
    only: Annotated[str, typer.Option(help="Variants whose name has this.")] = "",
    quick: Quick = False,
) -> None:
    """What each kernel takes of a GPU; exit code 1 where one of half precision spills more than a few registers."""
    announce("bench.kernels", about_s=20 if quick else 60)
    os.environ["TRITON_INTERPRET"] = "0"  # before Triton is imported: compiled they are to be
    num_spilled = 0
    table = Table(title=f"Triton kernels for compute capability {capability / 10:g}")
    for heading in ("kernel", "registers", "spilled, bytes", "shared, KB", "products", "compiled in, s"):
        table.add_column(heading, justify="left" if heading == "kernel" else "right")
    for variant in variants():
        is_there = variant.least_capability <= capability
        if only in variant.name and is_there and not (quick and "prompt" in variant.name):
            one = compile_for(variant, capability)
            num_spilled += one.spilled > MOST_SPILLED and "float32" not in variant.name
            products = ", ".join(f"{count} {name}" for name, count in one.products.items()) or "-"
            numbers = (str(one.registers), str(one.spilled), f"{one.shared / 1000:.0f}", products, f"{one.took_s:.1f}")
            table.add_row(one.name, *numbers)
    Console(width=130).print(table)
    raise typer.Exit(1 if num_spilled else 0)


if __name__ == "__main__":
    typer.run(main)
