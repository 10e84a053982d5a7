"""What a benchmark runs in: said before its first figure, and the same in all of them."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cluster.fleet.nodes import resolve_dtype
from cluster.profiling.specs import available_cores

# Environment variables that hold libraries and kernels to fewer instructions than the processor has.
LIMITS = ("BATON_CPU_ISA", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
TELLING_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "neon", "bf16")
DTYPES = ("auto", "bfloat16", "float16", "float32")

Quick = Annotated[bool, typer.Option("--quick", help="Fewer points and rounds: under 2 minutes.")]
Dtypes = Annotated[str, typer.Option("--dtypes", help="Comma-separated, each measured; auto is what Baton would take.")]
DEFAULT_DTYPES = "auto,bfloat16"


def processor() -> str:
    """Its name, what it can compute with, and what the environment holds it to."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
    name = names[0] if names else platform.processor() or platform.machine()
    name += "".join(f" +{flag}" for flag in TELLING_FLAGS if flag in flags)
    held = [f"{key}={os.environ[key]}" for key in LIMITS if os.environ.get(key)]
    return f"{name}, held to {' '.join(held)}" if held else name


def announce(name: str, *, about_s: float, dtypes: Sequence[str] = (), cores: Sequence[int] | None = None) -> None:
    """One line; a benchmark's first.

    Args:
        about_s: How long it may take.
        dtypes: Empty: no model computes.
        cores: Which it uses; None: all that it may.
    """
    used = cores if cores is not None else available_cores()
    parts = [processor(), f"core{'s' * (len(used) != 1)} {', '.join(map(str, used))}"]
    if dtypes:
        parts.append(" and ".join(dtypes))
    print(f"{name}: {'; '.join(parts)}; about {duration(about_s)}", flush=True)


def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{max(round(seconds, -1), 10):.0f} s"


def dtypes_of(words: str) -> list[str]:
    """Each once, in order, `auto` as what it means here.

    Raises:
        typer.BadParameter: An unknown one, or none.
    """
    named = [word.strip() for word in words.split(",") if word.strip()]
    unknown = [word for word in named if word not in DTYPES]
    if unknown or not named:
        wrong = repr(unknown[0]) if unknown else "an empty list"
        raise typer.BadParameter(f"{wrong} is not one of {', '.join(DTYPES)}", param_hint="--dtypes")
    return list(dict.fromkeys(resolve_dtype(word, "cpu") for word in named))
