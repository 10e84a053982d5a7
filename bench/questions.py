"""Benchmarks' questions: Spec-Bench's, its categories apart, GSM8K's and HumanEval's."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tools.distillation.questions import read_questions

DATA = Path("../shared/data")
FILES = ("spec_bench/question.jsonl", "gsm8k/test.jsonl", "humaneval/HumanEval.jsonl.gz")
CONVERSATION = "conversation"  # Spec-Bench's eight small ones, as its authors join them
JOINED = frozenset({"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"})


def find_questions(data: Path, each: int) -> tuple[dict[str, list[str]], list[str]]:
    """At most `each` of a category, evenly from each file under `data`; and the files that are not there."""
    there = [data / name for name in FILES if (data / name).is_file()]
    absent = [str(data / name) for name in FILES if not (data / name).is_file()]
    return _joined(read_questions(there, each), each), absent


def _joined(by_category: Mapping[str, list[str]], each: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for category, texts in by_category.items():
        found[CONVERSATION if category in JOINED else category] += texts
    return {category: texts[:: max(len(texts) // each, 1)][:each] for category, texts in found.items()}
