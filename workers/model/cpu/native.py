"""Compiles the C kernels beside this file on first use and keeps the libraries in the user's cache folder.

A library's name carries what it depends on: source, flags, compiler and processor. It is made under another name and
renamed, so that processes that start together do not see half of one. Without a compiler there is no library, and
callers serve with torch.

The environment variable BATON_CPU_ISA says for which instructions: `native`, the default, for this processor's all,
`avx2` for AVX2 and FMA alone, as an x86 processor without AVX-512 would run them.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from baton.errors import ConfigError
from workers.model.cache_folder import cache_folder

logger = logging.getLogger(__name__)

FLAGS = (
    "-std=gnu11",
    "-O3",
    "-fno-tree-vectorize",  # vectors are written out; guesses at the rest only made compiling twice as long
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fPIC",
    "-shared",
)
COMPILE_TIMEOUT_S = 120.0
ISA_VARIABLE = "BATON_CPU_ISA"
MARCH = {"native": "native", "avx2": "haswell"}  # value of the variable -> what the compiler calls it


@functools.cache
def load(name: str) -> ctypes.CDLL | None:
    """The library made of `<name>.c`; None, with one warning, where it cannot be made.

    torch must have been imported before: the library then shares its OpenMP threads.
    """
    source = Path(__file__).with_name(f"{name}.c")
    compiler = _compiler()
    if compiler is None:
        logger.warning("no C compiler, serving with torch kernels: install gcc for speed source=%s", source.name)
        return None
    try:
        return ctypes.CDLL(str(_library(source, compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        logger.warning("C kernel not built, serving with torch source=%s error=%s", source.name, detail[-500:])
        return None


def isa() -> str:
    """For which instructions kernels are compiled, a key of MARCH.

    Raises:
        ConfigError: The environment names one that is unknown, or not this machine's.
    """
    name = os.environ.get(ISA_VARIABLE) or "native"
    known = [key for key in MARCH if key == "native" or platform.machine() in ("x86_64", "AMD64")]
    if name not in known:
        raise ConfigError(f"{ISA_VARIABLE}: {name!r} is not for this machine; set {' or '.join(known)}, or unset it")
    return name


def build_all() -> None:
    """Compiles what `load` would, so that the first start need not; a kernel that cannot be made is left to `load`."""
    compiler = _compiler()
    if compiler is None:
        return
    for source in sorted(Path(__file__).parent.glob("*.c")):
        try:
            _library(source, compiler)
        except (OSError, subprocess.SubprocessError) as error:
            logger.warning("C kernel not built source=%s error=%s", source.name, error)


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)


def _library(source: Path, compiler: str) -> Path:
    text = source.read_bytes() + b"".join(path.read_bytes() for path in sorted(source.parent.glob("*.h")))
    version = _run([compiler, "--version"])
    flags = (*FLAGS, f"-march={MARCH[isa()]}")
    key = hashlib.sha256(b"\0".join([text, version.encode(), " ".join(flags).encode(), _processor().encode()]))
    folder = cache_folder("kernels")
    target = folder / f"{source.stem}-{key.hexdigest()[:20]}.so"
    if not target.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / target.name
            _run([compiler, *flags, "-o", str(made), str(source), "-lm"])
            os.replace(made, target)
    return target


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMPILE_TIMEOUT_S).stdout


def _processor() -> str:
    """Model and instruction set, so that a home folder shared by unlike machines holds one library for each."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() + platform.machine()
    lines = info.read_text().split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))


if __name__ == "__main__":
    build_all()
