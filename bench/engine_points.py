"""What `bench.engine` measures: points, the jobs that they are, and what the machine could do them in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bench.engine_sides import num_decode_outputs
from bench.rates import Rates
from cluster.planner.models.model_spec import ModelSpec

SHORT_CONTEXT = 64  # tokens, where a point names none
RAGGED = [(48 + 29 * i, 32 + 6 * ((7 * i) % 16)) for i in range(16)]  # (prompt, output) tokens: 48-483, 32-122
MAX_STEPS = 32
JOB_S = 1.0  # a decode job takes about so long on an engine at a third of the machine's limit


class PointKind(StrEnum):
    DECODE = "decode"
    PREFILL = "prefill"
    RAGGED = "ragged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One row of the table.

    Attributes:
        size: Sequences of a decode or of the ragged batch; tokens of a prefill.
        context: Tokens that each sequence of a decode has before it.
    """

    kind: PointKind
    size: int
    context: int = 0

    def __str__(self) -> str:
        at = f" @ {self.context:,}" if self.kind is PointKind.DECODE else ""
        return f"{self.kind} {self.size:,}{at}"

    @property
    def unit(self) -> str:
        return {PointKind.DECODE: "ms/step", PointKind.PREFILL: "ms", PointKind.RAGGED: "tok/s"}[self.kind]

    @property
    def kv_tokens(self) -> int:
        """Tokens whose KV is held at once."""
        if self.kind is PointKind.DECODE:
            return self.size * self.longest
        return self.size + 1 if self.kind is PointKind.PREFILL else sum(map(sum, RAGGED))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        if self.kind is PointKind.DECODE:
            return self.context + num_decode_outputs(self.size, self.context, MAX_STEPS)
        return self.size + 1 if self.kind is PointKind.PREFILL else max(map(sum, RAGGED))

    def job(self, limit_s: float) -> dict[str, Any]:
        """As the sides take it; see `bench.engine_sides`."""
        if self.kind is PointKind.DECODE:
            steps = min(max(round(JOB_S / (3 * limit_s)), 4), MAX_STEPS)
            return {"kind": "decode", "batch": self.size, "context": self.context, "steps": steps}
        if self.kind is PointKind.PREFILL:
            return {"kind": "prefill", "tokens": self.size}
        return {"kind": "ragged", "lengths": RAGGED}

    def figure(self, seconds: float) -> float:
        """In `unit`; `seconds` are of a step, a prompt, or the whole ragged batch."""
        return sum(count for _, count in RAGGED) / seconds if self.kind is PointKind.RAGGED else seconds * 1e3

    def limit_s(self, model: ModelSpec, rates: Rates) -> float:
        """What the machine needs at least, in bfloat16: to read a step's bytes or to compute its products, the longer.

        The ragged batch is its prompts at the machine's product rate, then its steps.
        """
        if self.kind is PointKind.PREFILL:
            return model.prefill_flops(self.size) / rates.best_product
        if self.kind is PointKind.DECODE:
            return _step_s(model, rates, [self.context] * self.size)
        prompts_s = sum(model.prefill_flops(length) for length, _ in RAGGED) / rates.best_product
        steps = [
            [length + done for length, count in RAGGED if count > done + 1]
            for done in range(max(count for _, count in RAGGED) - 1)
        ]
        return prompts_s + sum(_step_s(model, rates, contexts) for contexts in steps)


def _step_s(model: ModelSpec, rates: Rates, contexts: Sequence[int]) -> float:
    count, total = len(contexts), sum(contexts)
    return max(model.decode_bytes(count, total) / rates.read, model.decode_flops(count, total) / rates.best_product)


def parse_points(text: str) -> list[Point]:
    """
    Raises:
        ValueError: Says which word is no point, and what one looks like.
    """
    return [_parse(word.strip()) for word in text.split(",") if word.strip()]


def _parse(word: str) -> Point:
    found = re.fullmatch(r"(decode|prefill|ragged) ?([1-9]\d*)(?: ?@ ?([1-9]\d*))?", word)
    if found is None or (found[3] and found[1] != "decode") or (found[1] == "ragged" and int(found[2]) != len(RAGGED)):
        raise ValueError(f"{word!r} is no point; give such as decode 8 @ 1000, prefill 2048, ragged {len(RAGGED)}")
    kind = PointKind(found[1])
    context = int(found[3] or SHORT_CONTEXT) if kind is PointKind.DECODE else 0
    return Point(kind=kind, size=int(found[2]), context=context)


DUMMY_POINTS = "decode 1, decode 16, decode 64, prefill 2048, ragged 16"
REAL_POINTS = (
    "decode 1 @ 128, decode 8 @ 128, decode 32 @ 128, decode 1 @ 1000, decode 8 @ 1000, decode 32 @ 1000, "
    "decode 1 @ 4000, decode 8 @ 4000, decode 32 @ 4000, prefill 256, prefill 2048, ragged 16"
)
QUICK_POINTS = "decode 1 @ 128, decode 16 @ 128, prefill 256"
