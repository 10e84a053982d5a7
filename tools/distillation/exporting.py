"""The trained draft as a model folder: bfloat16 safetensors, the teacher's tokenizer, loss curve and model card."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE")


def export(student: LlamaForCausalLM, log: Sequence[Mapping[str, float]], teacher: Path, out: Path) -> None:
    """`student` is in bfloat16 afterwards."""
    out.mkdir(parents=True, exist_ok=True)
    student.config._attn_implementation = None
    student.generation_config = GenerationConfig.from_pretrained(teacher)
    student.to(torch.bfloat16).save_pretrained(out)
    for name in TOKENIZER_FILES:
        if (teacher / name).exists():
            shutil.copy(teacher / name, out / name)
    size = sum(parameter.numel() for parameter in student.parameters()) / 1e6
    (out / "README.md").write_text(_card(out.name, size, log))
    _plot(log, out / "agreement.png")


def _card(name: str, millions: float, log: Sequence[Mapping[str, float]]) -> str:
    last, cpu_s = log[-1], sum(entry["cpu_s"] for entry in log)
    return (
        f"# {name}\n\nA Llama-shaped model of {millions:.1f} M parameters that guesses what `smollm2` writes next, "
        f"distilled from its own answers by `tools/train_draft.py`: {last['tokens'] / 1e6:.2f} M tokens of answers in "
        f"{last['step']:.0f} steps, {cpu_s / 60:.0f} minutes of processor time.\nIts likeliest token is `smollm2`'s at "
        f"{last['agreement']:.0%} of the places of answers that it has not learnt from.\n\n"
        "It is of no use by itself.\n\n"
        "![agreement](agreement.png)\n"
    )


def _plot(log: Sequence[Mapping[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5))
    axes.plot([e["tokens"] / 1e6 for e in log], [e["agreement"] for e in log], label="held-out agreement")
    axes.set(xlabel="million tokens of answers", ylabel="share of places")
    other: Any = axes.twinx()
    other.plot([e["tokens"] / 1e6 for e in log], [e["divergence"] for e in log], color="tab:orange", label="divergence")
    other.set(ylabel="nats per token")
    figure.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
