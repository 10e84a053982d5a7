"""What is said where memory runs out while a rank starts: what took how much, and what to lower."""

from typing import NamedTuple

import torch

from baton.errors import ConfigError
from workers.model.device_faults import is_out_of_memory
from workers.model.device_memory import available_bytes, mib
from workers.model.start_report import StartReport

FIXES = "lower engine.memory or engine.max_sequences, or give a smaller model, or one whose weights are quantized"


class Held(NamedTuple):
    """Of a device, in bytes; `own` is what this process has of it, None where that is not known."""

    own: int | None
    available: int


def explained(error: BaseException, report: StartReport, device: str) -> ConfigError | None:
    """None: it is another error. `report`: what was asked for by then."""
    if not is_out_of_memory(error):
        return None
    first = (str(error).splitlines() or [""])[0].split(". ")[0].rstrip(".")
    return ConfigError(
        f"engine.memory: {text(report, held(device), device)} ({first or type(error).__name__}); {FIXES}"
    )


def text(report: StartReport, found: Held, device: str) -> str:
    parts = dict(report.parts)
    if found.own is not None:
        parts["workspace and CUDA graphs"] = max(0, found.own - sum(parts.values()))
    told = ", ".join(f"{name} {mib(num_bytes)}" for name, num_bytes in parts.items())
    return (
        f"memory ran out on {device} while the worker started: {told or 'nothing yet'}; {mib(found.available)} are left"
    )


def held(device: str) -> Held:
    own = int(torch.cuda.memory_reserved()) if device == "cuda" else None
    return Held(own, available_bytes(torch.device(device)))
