"""Trains the bundled demo models from a folder of plain text or Markdown books.

    python -m tools.train_demo tokenizer --books BOOKS --run RUN
    python -m tools.train_demo target    --books BOOKS --run RUN --minutes 90
    python -m tools.train_demo draft     --books BOOKS --run RUN --minutes 20
    python -m tools.train_demo hybrid    --books BOOKS --run RUN --minutes 120
    python -m tools.train_demo export    --run RUN --out workers/model/bundled

Every stage checkpoints into RUN once a minute and resumes from there; the learning rate follows the share of the
minutes that is used up, so a stage ends when it says it does, however busy the machine is. The last part of a stage
reads long windows, so that the positions up to the model's limit have been seen. Draft and hybrid learn from the
target; the hybrid begins with the target's embedding, MLPs and norms, so that only what mixes tokens is new.
"""

import argparse
import json
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)

from tools.delta_training import use_in_transformers

BUNDLED = Path(__file__).parents[1] / "workers/model/bundled"
VOCAB_SIZE = 4096
END = "<|endoftext|>"
MAX_POSITIONS = 2048
HELD_OUT_SHARE = 0.02  # of the end of every book
TOKENS_PER_STEP = 4096
LONGEST_STEP_S = 30.0  # of a step, counted as used: the process may have been stopped for a while
# Reads 2,048 tokens as well as 512 without having seen such windows (3.88 and 3.82 nats), and the target, which would
# teach there, is worse at them (4.19): a long stage made the hybrid worse.
SHORT = ("hybrid",)
LONG_SHARE = 0.12  # of the minutes, at the end, on windows of MAX_POSITIONS
# The last line puts text that a chat client would write into the form the books have: dialogue and paragraphs.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}\n\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    head_dim: int = 32
    linear_heads: int = 0  # of three layers in four, which are linear attention by the gated delta rule; 0: none is


# Read on a dozen prompts: at 1 words fall apart, at 0.5 or with min_p texts turn in circles ("a good deal of").
DEFAULTS = {"do_sample": True, "temperature": 0.7, "top_p": 0.9}
TARGET = Shape(hidden=288, layers=8, heads=9, kv_heads=3, mlp=768)
DRAFT = Shape(hidden=128, layers=6, heads=4, kv_heads=2, mlp=384)
HYBRID = Shape(hidden=288, layers=8, heads=8, kv_heads=2, mlp=768, linear_heads=8)
SHAPES = {"target": TARGET, "draft": DRAFT, "hybrid": HYBRID}
KINDS = {
    "target": "A Llama-shaped model",
    "draft": "A Llama-shaped model",
    "hybrid": "A model as Qwen3.5, three of whose four layers are linear attention (gated delta rule),",
}
HOW = {
    "draft": "distilled from `demo`",
    "hybrid": "distilled from `demo`, whose embedding, MLPs and norms it began with,",
}
CORES = {"hybrid": "one core of a Xeon (Sapphire Rapids)"}
NAMES = {"target": "demo", "draft": "demo-draft", "hybrid": "demo-hybrid"}


def read_books(folder: Path) -> list[str]:
    """The text of each book with its markup removed, chapters parted by END."""
    texts = []
    for path in sorted(folder.glob("*.md")) + sorted(folder.glob("*.txt")):
        if path.name == "SOURCE.md":
            continue
        text = path.read_text(encoding="utf-8", errors="replace").replace("\r", "")
        text = re.sub(r"(?m)^#+ *(Title|Author|Year):.*$", "", text)
        text = re.sub(r"(?m)^-{3,}\s*$", "", text)
        text = re.sub(r"(?m)^#+ .*$", END, text)
        text = re.sub(r"[ \t]+(?=\n)", "", text)
        text = text.replace("_", "").replace("“", '"').replace("”", '"').replace("’", "'").replace("‘", "'")
        text = re.sub(r"(?<=\S)[ \t]{2,}", " ", text)
        text = re.sub(r"\n{3,}", "\n\n", text)
        text = re.sub(rf"\s*{re.escape(END)}\s*", END, text)
        texts.append(text.strip())
    if not texts:
        raise SystemExit(f"--books {folder}: no .md or .txt file there")
    return texts


def train_tokenizer(texts: list[str], run: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator((part for text in texts for part in text.split(END)), trainer)
    tokenizer.save(str(run / "tokenizer.json"))
    return tokenizer


def tokenize(texts: list[str], run: Path) -> None:
    """By the run's tokenizer, trained if there is none: copy a model's tokenizer.json to RUN to train beside it."""
    path = run / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path)) if path.exists() else train_tokenizer(texts, run)
    train, held_out = [], []
    for text in texts:
        ids = tokenizer.encode(END + text + END).ids
        cut = int(len(ids) * (1 - HELD_OUT_SHARE))
        train.extend(ids[:cut])
        held_out.extend(ids[cut:])
    np.save(run / "train.npy", np.array(train, dtype=np.uint16))
    np.save(run / "held_out.npy", np.array(held_out, dtype=np.uint16))
    print(f"{len(train):,} training tokens, {len(held_out):,} held out")


def build(shape: Shape) -> PreTrainedModel:
    common = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.mlp,
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
        "attn_implementation": "sdpa",
    }
    if not shape.linear_heads:
        return LlamaForCausalLM(LlamaConfig(**common))
    config = Qwen3_5TextConfig(
        **common,
        linear_num_key_heads=shape.linear_heads // 2,
        linear_num_value_heads=shape.linear_heads,
        linear_key_head_dim=shape.head_dim,
        linear_value_head_dim=shape.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    )
    return Qwen3_5ForCausalLM(config)


def begin_with(model: PreTrainedModel, teacher: PreTrainedModel | None) -> None:
    """The hybrid takes all but the token mixers from a target of the same width; its norms multiply by 1 + weight."""
    if teacher is None:
        return
    theirs = teacher.state_dict()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_tokens" in name or ".mlp." in name:
                parameter.copy_(theirs[name])
            elif name.endswith(("layernorm.weight", "model.norm.weight")):
                parameter.copy_(theirs[name] - 1)


def optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon on the matrices of the layers, AdamW on embeddings and norms (Jordan et al., 2024)."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01, momentum=0.95, nesterov=True),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(share: float) -> float:
    """Learning-rate factor at a share in [0, 1] of the minutes: short warm-up, flat, then linear to 0 from 40 % on."""
    if share < 0.01:
        return max(share / 0.01, 0.02)
    return 1.0 if share < 0.4 else max((1.0 - share) / 0.6, 0.01)


def windows(tokens: np.ndarray, length: int, rng: np.random.Generator) -> torch.Tensor:
    starts = rng.integers(0, len(tokens) - length, size=max(1, TOKENS_PER_STEP // length))
    return torch.from_numpy(np.stack([tokens[s : s + length] for s in starts]).astype(np.int64))  # [batch, length]


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, tokens: np.ndarray, length: int = 512) -> float:
    """Mean negative log likelihood in nats per token over all of the held-out text."""
    model.eval()
    total, count = 0.0, 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for start in range(0, len(tokens) - length, length * 8):
            rows = [tokens[s : s + length] for s in range(start, min(start + length * 8, len(tokens) - length), length)]
            batch = torch.from_numpy(np.stack(rows).astype(np.int64))
            logits = model(batch, use_cache=False).logits[:, :-1].float()
            total += float(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
            count += batch[:, 1:].numel()
    model.train()
    return total / count


def train(stage: str, run: Path, minutes: float, teacher: PreTrainedModel | None) -> None:
    torch.manual_seed(0)
    tokens, held_out = np.load(run / "train.npy"), np.load(run / "held_out.npy")
    model = build(SHAPES[stage])
    if stage == "hybrid":
        use_in_transformers()
        begin_with(model, teacher)
    model.train()
    opts = optimizers(model)
    base_lrs = [[g["lr"] for g in opt.param_groups] for opt in opts]
    path = run / f"{stage}.pt"
    used_s, step, log = 0.0, 0, []
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["opts"], strict=True):
            opt.load_state_dict(saved)
        used_s, step, log = state["used_s"], state["step"], state["log"]
    print(f"{stage}: {sum(p.numel() for p in model.parameters()):,} parameters, from step {step}", flush=True)
    rng = np.random.default_rng(step + 1)
    budget_s, last, saved_at, running = minutes * 60, time.monotonic(), time.monotonic(), None
    while used_s < budget_s:
        share = used_s / budget_s
        for opt, lrs in zip(opts, base_lrs, strict=True):
            for group, lr in zip(opt.param_groups, lrs, strict=True):
                group["lr"] = lr * schedule(share)
        is_long = share > 1 - LONG_SHARE and stage not in SHORT
        batch = windows(tokens, MAX_POSITIONS if is_long else 256, rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch, use_cache=False).logits[:, :-1]
            if teacher is not None:
                with torch.no_grad():
                    taught = teacher(batch, use_cache=False).logits[:, :-1]
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        total = loss
        if teacher is not None:  # distillation: match the teacher's whole distribution
            kl = F.kl_div(
                F.log_softmax(logits.float(), -1).flatten(0, 1),
                F.log_softmax(taught.float(), -1).flatten(0, 1),
                log_target=True,
                reduction="batchmean",
            )
            total = 0.1 * loss + 0.9 * kl
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        step += 1
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        now = time.monotonic()
        used_s, last = used_s + min(now - last, LONGEST_STEP_S), now
        if now - saved_at > 60 or used_s >= budget_s:
            entry = {"step": step, "tokens": step * TOKENS_PER_STEP, "minutes": used_s / 60, "loss": running}
            if len(log) % 5 == 0 or used_s >= budget_s:
                entry["held_out"] = held_out_loss(model, held_out)
            log.append(entry)
            print(json.dumps(entry), flush=True)
            state = {"model": model.state_dict(), "opts": [o.state_dict() for o in opts]}
            torch.save(state | {"used_s": used_s, "step": step, "log": log}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            saved_at = last = time.monotonic()


def load(stage: str, run: Path) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    state = torch.load(run / f"{stage}.pt", weights_only=True)
    model = build(SHAPES[stage])
    model.load_state_dict(state["model"])
    return model.eval(), state["log"]


def load_teacher(run: Path) -> PreTrainedModel:
    """The target of this run, else the bundled one, whose tokenizer must then be the run's."""
    if (run / "target.pt").exists():
        return load("target", run)[0]
    bundled = BUNDLED / NAMES["target"]
    if (bundled / "tokenizer.json").read_text() != (run / "tokenizer.json").read_text():
        raise SystemExit(f"{run}: has no target.pt, and its tokenizer is not that of {bundled}: train the target first")
    return LlamaForCausalLM.from_pretrained(bundled, dtype=torch.float32).eval()


def export(run: Path, out: Path) -> None:
    """Writes Hub-shaped folders: config, bfloat16 safetensors, tokenizer, loss curve and model card."""
    for stage, name in NAMES.items():
        if not (run / f"{stage}.pt").exists():
            print(f"{stage}: not trained yet, left out")
            continue
        model, log = load(stage, run)
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        model.config._attn_implementation = None
        model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, **DEFAULTS)
        model.to(torch.bfloat16).save_pretrained(folder)
        (folder / "tokenizer.json").write_text((run / "tokenizer.json").read_text())
        tokenizer_config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END,
            "eos_token": END,
            "add_bos_token": False,
            "model_max_length": MAX_POSITIONS,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n")
        plot(log, folder / "loss.png")
        last = [e for e in log if "held_out" in e][-1]
        card = (
            f"# {name}\n\n{KINDS[stage]} of {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
            f"{HOW.get(stage, 'trained from scratch')} on public-domain books by "
            f"`tools/train_demo.py`: {last['tokens'] / 1e6:.1f} M tokens in {last['minutes']:.0f} minutes on "
            f"{CORES.get(stage, 'two CPU cores')}.\nHeld-out loss {last['held_out']:.3f} nats per token (perplexity "
            f"{math.exp(last['held_out']):.1f}), on the last {HELD_OUT_SHARE:.0%} of every book.\n\n"
            "It continues stories in the English of the nineteenth century. It knows nothing and answers no questions; "
            "it is here so that a fresh machine serves readable text.\n\n![loss curve](loss.png)\n"
        )
        (folder / "README.md").write_text(card)
        print(f"{folder}: held-out loss {last['held_out']:.3f}")


def plot(log: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5))
    axes.plot([e["tokens"] / 1e6 for e in log], [e["loss"] for e in log], label="training, moving average")
    held = [e for e in log if "held_out" in e]
    axes.plot([e["tokens"] / 1e6 for e in held], [e["held_out"] for e in held], "o-", label="held out")
    axes.set(xlabel="million tokens", ylabel="nats per token")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def sample(run: Path, stage: str, prompt: str) -> None:
    model, _ = load(stage, run)
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    out = model.generate(ids, max_new_tokens=120, pad_token_id=0, **DEFAULTS)
    print(tokenizer.decode(out[0].tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["tokenizer", *SHAPES, "export", "sample"])
    parser.add_argument("--books", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--of", default="target", choices=list(SHAPES))
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    if args.stage == "tokenizer":
        if args.books is None:
            parser.error("--books is needed: a folder of .md or .txt files")
        tokenize(read_books(args.books), args.run)
    elif args.stage == "target":
        train(args.stage, args.run, args.minutes, None)
    elif args.stage in ("draft", "hybrid"):
        train(args.stage, args.run, args.minutes, load_teacher(args.run))
    elif args.stage == "export":
        export(args.run, args.out)
    else:
        sample(args.run, args.of, args.prompt)


if __name__ == "__main__":
    main()
