"""Trains the student on answers while they are written; checkpoints once a minute and goes on from there."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from tools.distillation.answers import Answer, read_shard, shards
from tools.distillation.batches import Batch, batches
from tools.distillation.loss import candidates, divergence

HELD_OUT = 32  # one answer of so many is not learnt from
SAVE_EVERY_S = 60.0
NUM_OTHERS = 4096
FLAT_SHARE = 0.5  # of the steps, after which the learning rate falls to nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    steps: int
    tokens: int = 4096  # of a step, prompts and filling included
    num_top: int = 10
    matrix_rate: float = 0.02
    vector_rate: float = 4e-3
    device: str = "cpu"


def split(folder: Path) -> tuple[list[Answer], list[Answer]]:
    """The answers to learn from that are there now, and those held out."""
    answers = [answer for path in shards(folder) for answer in read_shard(path) if len(answer.top_ids)]
    if len(answers) < HELD_OUT:
        raise SystemExit(f"{folder} has {len(answers)} answers, too few to learn from: have more written first")
    learnt = [answer for index, answer in enumerate(answers) if index % HELD_OUT != HELD_OUT - 1]
    return learnt, answers[HELD_OUT - 1 :: HELD_OUT]


def token_counts(answers: list[Answer], vocab_size: int) -> Tensor:
    written = np.concatenate([answer.token_ids[answer.num_prompt :] for answer in answers])
    return torch.from_numpy(np.bincount(written, minlength=vocab_size))


def rate_factor(share: float) -> float:
    """Of the learning rates at a share in [0, 1] of the steps: a short rise, flat, then down to 0."""
    if share < 0.02:
        return max(share / 0.02, 0.05)
    return min(1.0, (1 - share) / (1 - FLAT_SHARE))


class Learning:
    def __init__(self, student: LlamaForCausalLM, plan: Plan, run: Path) -> None:
        """Goes on from the run's checkpoint, if there is one."""
        self.student = student.to(plan.device).train()
        if plan.device == "cpu":  # torch's own attention takes twice as long there, forward and back, on short rows
            self.student.set_attn_implementation("eager")
        self._plan = plan
        self._path = run / "student.pt"
        self._answers = run / "answers"
        self._opts = optimizers(student, plan)
        self._rates = [[group["lr"] for group in opt.param_groups] for opt in self._opts]
        self._generator = torch.Generator().manual_seed(0)
        self.step, self.num_tokens, self.log = 0, 0, list[dict[str, float]]()
        if self._path.exists():
            self._resume()

    def run(self) -> None:
        saved_s, began_s, losses = time.monotonic(), time.process_time(), list[float]()
        for batch in self._endless():
            if self.step >= self._plan.steps:
                break
            losses.append(self._learn(batch))
            if time.monotonic() - saved_s > SAVE_EVERY_S or self.step == self._plan.steps:
                used_s = time.process_time() - began_s
                self._save({"cpu_s": used_s, "divergence": float(np.mean(losses))})
                saved_s, began_s, losses = time.monotonic(), time.process_time(), []

    def _endless(self) -> Iterator[Batch]:
        """Pass after pass, each over what is there when it begins."""
        while True:
            answers, _ = split(self._answers)
            yield from batches(answers, self._plan.tokens, np.random.default_rng(self.step), self._plan.num_top)

    def _learn(self, batch: Batch) -> float:
        factor = rate_factor(self.step / self._plan.steps)
        for opt, rates in zip(self._opts, self._rates, strict=True):
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        batch = batch.to(self._plan.device)
        embedding = self.student.get_input_embeddings().weight
        tokens = candidates(batch.top_ids, len(embedding), NUM_OTHERS, self._generator)
        with torch.autocast(self._plan.device, dtype=torch.bfloat16):
            hidden = hidden_states(self.student, batch)
            loss = divergence(hidden, embedding, tokens, (batch.top_ids, batch.top_logprobs))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        for opt in self._opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        self.step, self.num_tokens = self.step + 1, self.num_tokens + len(batch.places)
        return loss.item()

    def _save(self, figures: dict[str, float]) -> None:
        _, held_out = split(self._answers)
        agreement = held_out_agreement(self.student, held_out, self._plan)
        entry = {"step": self.step, "tokens": self.num_tokens, **figures, "agreement": agreement}
        self.log.append(entry)
        print(json.dumps(entry), flush=True)
        state = {"model": self.student.state_dict(), "opts": [opt.state_dict() for opt in self._opts]}
        partial = self._path.with_suffix(".tmp")
        torch.save(state | {"step": self.step, "num_tokens": self.num_tokens, "log": self.log}, partial)
        partial.replace(self._path)

    def _resume(self) -> None:
        state = torch.load(self._path, weights_only=True, map_location=self._plan.device)
        self.student.load_state_dict(state["model"])
        for opt, saved in zip(self._opts, state["opts"], strict=True):
            opt.load_state_dict(saved)
        self.step, self.num_tokens, self.log = state["step"], state["num_tokens"], state["log"]


def optimizers(student: LlamaForCausalLM, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon on the matrices of the layers, AdamW on embedding and norms (Jordan et al., 2024)."""
    named = list(student.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=plan.matrix_rate, weight_decay=0.0, momentum=0.95, nesterov=True),
        torch.optim.AdamW(others, lr=plan.vector_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def hidden_states(student: Any, batch: Batch) -> Tensor:
    """[places, width], after the last norm."""
    states: Tensor = student.model(batch.token_ids, use_cache=False).last_hidden_state
    return states.flatten(0, 1)[batch.places]


@torch.no_grad()
def held_out_agreement(student: LlamaForCausalLM, answers: list[Answer], plan: Plan) -> float:
    """Share of places where the student's likeliest token is the teacher's."""
    right = total = 0
    for batch in batches(answers, plan.tokens, np.random.default_rng(0), 1):
        moved = batch.to(plan.device)
        with torch.autocast(plan.device, dtype=torch.bfloat16):
            logits = hidden_states(student, moved) @ student.get_input_embeddings().weight.T
        right += int((logits.argmax(-1) == moved.top_ids[:, 0]).sum())
        total += len(moved.places)
    return right / total
