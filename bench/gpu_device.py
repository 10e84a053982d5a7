"""The device of a benchmark that is for a GPU, and may be tried without one."""

import os
from typing import Annotated

import torch
import typer


def _known(device: str) -> str:
    if device not in ("cuda", "cpu"):
        raise typer.BadParameter(f"{device!r} is none; give cuda or cpu")
    return device


GPUDevice = Annotated[str, typer.Option("--device", help="cuda, or cpu for a dry run.", callback=_known)]


def begin(name: str, device: str) -> None:
    """Before anything else of `bench.NAME`. Raises: typer.Exit: there is no GPU, which it says."""
    if device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    elif not torch.cuda.is_available():
        print(f"{name}: there is no GPU that torch can use; --device cpu is a dry run")
        raise typer.Exit(0)
