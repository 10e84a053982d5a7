"""How many of `demo-draft`'s tokens `demo` keeps, by how many layers attend at once; for `bench.layer_parallel`.

Greedy, in float32. Rounds as a draft worker has them: the tokens that were kept and the target's next one are read
exactly, which gives the first draft token; the others are drafted nearly. What is drafted depends on what was kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from tokenizers import Tokenizer

from bench.layer_parallel_rank import GREEDY
from bench.speculation_prompts import PROMPTS
from cluster.models.find import find_model
from workers.model.contract import Batch, Chunk, ChunkKind, ModelRunner, SampleRow
from workers.model.runner import TorchRunner
from workers.spec import EngineSpec, GangSpec, Role, WorkerSpec
from workers.speculative.layer_parallel import LayerParallelRunner

TARGET, DRAFT = "demo", "demo-draft"
SIZES = (1, 2, 3, 4)
HELD_OUT = Path("runs/demo/held_out.npy")
PROMPT, OUTPUT, DEPTH = 64, 64, 5  # tokens: of a prompt, of what is written after it, drafted in a round
MAX_PROMPT = 192
CODE_LIKE, REPETITIVE = ("edit code",), ("repeat", "summarize")


@dataclass(slots=True)
class Counts:
    num_drafted: int = 0  # up to the first that is wrong, in each round
    num_kept: int = 0
    num_rounds: int = 0

    @property
    def acceptance(self) -> float:
        return self.num_kept / max(self.num_drafted, 1)


class Texts:
    """Sequences side by side in one runner, each with blocks of its own."""

    def __init__(self, runner: ModelRunner, prompts: Sequence[Sequence[int]]) -> None:
        self._runner = runner
        longest = max(map(len, prompts)) + OUTPUT + DEPTH + 1
        per_text = -(-longest // runner.store.block_size)
        self._blocks = [range(per_text * number, per_text * (number + 1)) for number in range(len(prompts))]

    def next_tokens(self, texts: Mapping[int, Sequence[int]], starts: Mapping[int, int], kind: ChunkKind) -> list[int]:
        """Reads each text from `starts` on; the most likely tokens after them."""
        chunks, rows = [], []
        for number, (text, ids) in enumerate(texts.items()):
            start, own = starts[text], self._blocks[text]
            chunk = Chunk(token_ids=ids[start:], start=start, num_sequence_tokens=len(ids), block_ids=own, kind=kind)
            chunks.append(chunk)
            rows.append(SampleRow(chunk=number, choice=0, params=GREEDY, prompt_token_ids=ids, output_token_ids=()))
        return [sampled[0].token_id for sampled in self._runner.run(Batch(chunks=chunks, samples=rows))]


def written(runner: ModelRunner, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """`OUTPUT` tokens after each prompt."""
    texts = Texts(runner, prompts)
    known = {number: list(prompt) for number, prompt in enumerate(prompts)}
    starts = dict.fromkeys(known, 0)
    for _ in range(OUTPUT):
        found = texts.next_tokens(known, starts, ChunkKind.DECODE)
        starts = {number: len(ids) for number, ids in known.items()}
        for ids, token in zip(known.values(), found, strict=True):
            ids.append(token)
    return [ids[len(prompt) :] for ids, prompt in zip(known.values(), prompts, strict=True)]


def accepted(runner: ModelRunner, prompts: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> Counts:
    """Drafts for all texts together until the target has written what it wants to."""
    texts, counts = Texts(runner, prompts), Counts()
    known = {number: [*prompt, wanted[number][0]] for number, prompt in enumerate(prompts)}
    whole = {number: [*prompt, *wanted[number]] for number, prompt in enumerate(prompts)}
    starts = dict.fromkeys(known, 0)
    while known:
        first = texts.next_tokens(known, starts, ChunkKind.DECODE)
        drafts = {number: [*ids, token] for (number, ids), token in zip(known.items(), first, strict=True)}
        for _ in range(DEPTH - 1):
            at = {number: len(ids) - 1 for number, ids in drafts.items()}
            for ids, token in zip(drafts.values(), texts.next_tokens(drafts, at, ChunkKind.DRAFT), strict=True):
                ids.append(token)
        starts = {number: len(ids) for number, ids in known.items()}
        known = {number: kept_of(counts, whole[number], len(ids), drafts[number]) for number, ids in known.items()}
        known = {number: ids for number, ids in known.items() if len(ids) + DEPTH < len(whole[number])}
    return counts


def kept_of(counts: Counts, whole: Sequence[int], num_known: int, drafted: Sequence[int]) -> list[int]:
    """The text after the round: what was kept, and the target's next token."""
    kept = 0
    while kept < DEPTH and drafted[num_known + kept] == whole[num_known + kept]:
        kept += 1
    counts.num_rounds += 1
    counts.num_kept += kept
    counts.num_drafted += min(kept + 1, DEPTH)
    return list(whole[: num_known + kept + 1])


def spec_of(name: str, group: int = 1) -> WorkerSpec:
    return WorkerSpec(
        worker_id="bench-acceptance",
        role=Role.DRAFT,
        model=str(find_model(name)),
        served_name=name,
        dtype="float32",
        device="cpu",
        gang=GangSpec(layer_group=group),
        engine=EngineSpec(memory_bytes=512 << 20, max_model_len=MAX_PROMPT + PROMPT + OUTPUT + DEPTH),
    )


def kinds_of_text(held_out: Path, num_texts: int, console: Console) -> dict[str, list[list[int]]]:
    """Prompts, by kind."""
    tokenizer = Tokenizer.from_file(str(find_model(TARGET) / "tokenizer.json"))
    found = {}
    if held_out.is_file():
        tokens = np.load(held_out)
        step = (len(tokens) - PROMPT) // num_texts
        found["books, held out"] = [tokens[step * n : step * n + PROMPT].tolist() for n in range(num_texts)]
    else:
        console.print(f"  {held_out} is not here: no book text")
    for kind, names in (("code-like", CODE_LIKE), ("repetitive", REPETITIVE)):
        ids = [tokenizer.encode(text).ids for name in names for text in PROMPTS[name]]
        cut = [one[start : start + MAX_PROMPT] for one in ids for start in range(0, max(len(one) - PROMPT, 1), 8)]
        found[kind] = cut[:num_texts]
    return found


def report_acceptance(console: Console, held_out: Path, num_texts: int) -> None:
    """Prints, for each kind of text and number of layers at once, acceptance against the target and the exact draft."""
    console.print(f"\n[bold]acceptance of {DRAFT}[/] by {TARGET}, greedy, {DEPTH} tokens a round, and by itself, exact")
    target, exact = TorchRunner(spec_of(TARGET)), TorchRunner(spec_of(DRAFT))
    drafts = {size: LayerParallelRunner(spec_of(DRAFT, size)) for size in SIZES}
    for kind, prompts in kinds_of_text(held_out, num_texts, console).items():
        for by, wanted in ((TARGET, written(target, prompts)), (DRAFT, written(exact, prompts))):
            found = {size: accepted(draft, prompts, wanted) for size, draft in drafts.items()}
            base = found[SIZES[0]].acceptance
            shown = " · ".join(
                f"N = {size} {counts.acceptance:.3f} ({counts.acceptance / base - 1:+.1%}, "
                f"{counts.num_kept / counts.num_rounds:.2f} a round)"
                for size, counts in found.items()
            )
            console.print(f"  {kind}, {len(prompts)} texts, by {by}: {shown}")
