"""Questions to judge a draft by: JSON lines (also gzipped) of benchmarks, never learnt from."""

import gzip
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_questions(paths: Sequence[Path], each: int) -> dict[str, list[str]]:
    """By category, evenly from each file, at most `each` of a category.

    A line has `turns` (Spec-Bench: the first is asked), `question` (GSM8K) or `prompt` (HumanEval: to be completed);
    its category is its `category`, or the name of the file's folder.

    Raises: SystemExit: a file has none of them.
    """
    by_category: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        for line in _text(path).splitlines():
            row = json.loads(line)
            by_category[row.get("category", path.parent.name)].append(_question(row, path))
    return {category: _spread(texts, each) for category, texts in by_category.items()}


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def _question(row: Mapping[str, Any], path: Path) -> str:
    if "turns" in row:
        return str(row["turns"][0])
    if "question" in row:
        return str(row["question"])
    if "prompt" in row:
        return f"Complete this function:\n\n{row['prompt']}"
    raise SystemExit(f"{path}: a line has none of turns, question, prompt")


def _spread(texts: Sequence[str], each: int) -> list[str]:
    return [texts[index * len(texts) // each] for index in range(each)] if len(texts) > each else list(texts)
