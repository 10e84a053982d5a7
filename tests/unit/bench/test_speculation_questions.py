"""Which questions are asked, whose turn it is, and what is told of the answers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import typer

from bench.answering_results import figures, joined, lines
from bench.engine_side import Side
from bench.questions import CONVERSATION, find_questions
from bench.speculation import methods_of
from bench.speculation_questions import LOOKUPS, Load, Seat, chosen, forms_of, measure, numbers, rows_of


class FakeSide:
    """Writes two tokens, in other words where it drafts; cannot answer several at once where it is `alone`."""

    def __init__(self, name: str, log: list[tuple[str, str]], *, alone: bool = False) -> None:
        self.name = name
        self._log = log
        self._alone = alone

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        self._log.append((self.name, job["way"]))
        if self._alone and len(job["prompts"]) > 1:
            return {"error": "one prompt at a time"}
        drafts = job["way"] != "none"
        written = [[1, 2 + drafts] for _ in job["prompts"]]
        return {"seconds": 0.5 if drafts else 1.0, "num_timed": len(written), "token_ids": written}


def seats(log: list[tuple[str, str]]) -> list[Seat]:
    own, other = FakeSide("own", log), FakeSide("other", log, alone=True)
    return [Seat(cast(Side, side), way) for side in (own, other) for way in ("none", "ngram")]


def test_each_question_is_answered_by_all_another_one_first_each_time_after_one_that_is_not_counted() -> None:
    log: list[tuple[str, str]] = []
    tallies = measure(seats(log), [[1], [2], [3]], 1, Load(num_tokens=2, rounds=2))
    assert len(log) == 4 * (1 + 2 * 3)
    assert [first for first, _ in log[::4]] == ["own", "own", "other", "other", "other", "other", "own"]
    assert [tally.num_tokens for tally in tallies.values()] == [{1: 3, 2: 3}] * 4
    assert figures(tallies) == {"own": {"none": 1.0, "ngram": 2.0}, "other": {"none": 1.0, "ngram": 2.0}}
    (own, _) = lines("qa", tallies)
    assert "own" in own
    assert "none 1.0 | ngram 2.0 (2.00 x, 6 of 6 in other words)" in own


def test_what_a_side_does_not_do_is_left_out_and_its_reason_kept() -> None:
    tallies = measure(seats([]), [[1], [2]], 2, Load(num_tokens=2, rounds=1))
    whole = joined([tallies, measure(seats([]), [[1], [2]], 2, Load(num_tokens=2, rounds=1))])
    assert whole["own", "ngram"].rate == 4.0
    assert (whole["other", "ngram"].rate, whole["other", "ngram"].why_not) == (None, "one prompt at a time")
    assert "none - | ngram -" in lines("all", whole)[1]


def test_files_that_are_not_there_are_named_and_small_categories_joined(tmp_path: Path) -> None:
    rows = [{"category": category, "turns": [f"{category} {n}"]} for category in ("qa", "math", "stem") for n in "ab"]
    (tmp_path / "spec_bench").mkdir()
    (tmp_path / "spec_bench" / "question.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, absent = find_questions(tmp_path, each=2)
    assert found == {"qa": ["qa a", "qa b"], CONVERSATION: ["math a", "stem a"]}
    assert [Path(name).name for name in absent] == ["test.jsonl", "HumanEval.jsonl.gz"]
    assert list(chosen(found, "qa")) == ["qa"]
    with pytest.raises(typer.BadParameter, match="'rag' is not one of qa, conversation"):
        chosen(found, "rag")
    with pytest.raises(typer.BadParameter, match="no questions are there"):
        chosen({}, "")


def test_a_process_for_each_engine_and_for_each_way_of_vllm() -> None:
    peers = {"llama.cpp": "python", "vllm": "python"}
    rows = list(rows_of({"dtype": "bfloat16"}, ["none", "ngram"], Path("m.gguf"), peers, ["file", "bf16"]))
    assert [(name, tuple(row["ways"])) for name, row in rows] == [
        ("baton bfloat16", ("none", "ngram")),
        ("llama.cpp file", LOOKUPS),
        ("llama.cpp bf16", LOOKUPS),
        ("vllm bfloat16", ("none",)),
        ("vllm bfloat16", ("ngram",)),
    ]
    assert len(list(rows_of({"dtype": "bfloat16"}, ["none"], "there is none", peers, ["file"]))) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("none,ngrams", "'ngrams' is not one of auto, none, ngram, draft, self"),
        ("none,ngram:x", "'ngram:x': give a width such as ngram:4 or ngram:auto"),
        ("ngram", "'ngram' lacks none"),
    ],
)
def test_methods_are_known_and_none_is_among_them(text: str, words: str) -> None:
    assert methods_of("none, ngram:4,auto:auto") == ["none", "ngram:4", "auto:auto"]
    with pytest.raises(typer.BadParameter, match=words):
        methods_of(text)


def test_forms_of_weights_are_known() -> None:
    assert forms_of("file, bf16") == ["file", "bf16"]
    with pytest.raises(typer.BadParameter, match="'q4' is not one of file, bf16, f16"):
        forms_of("q4")


def test_concurrencies_are_whole_numbers() -> None:
    assert numbers("1,16") == [1, 16]
    with pytest.raises(typer.BadParameter, match="'1,x' is not a list such as 1,4"):
        numbers("1,x")
