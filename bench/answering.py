"""The engines that `bench.speculation_questions` compares, a process each: `python -m bench.answering SETTINGS`.

SETTINGS is a JSON object: side, folder, dtype, ways, max_model_len, max_tokens, draft, gguf, form, cache and
eos_token_ids. Reads one JSON line per job, {"way", "prompts": [[token id]], "tokens"}, has the prompts answered at
once, greedily, up to so many tokens or the end, and answers {"seconds", "num_timed", "token_ids": [[token id]]}: the
time from when each prompt had its first token, and how many tokens came in it. A job that an engine cannot do is
answered {"error"}.

Only the standard library is imported before a side is chosen: some of them live in another Python environment.
"""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

SIDES = {  # name -> where it is
    "baton": "bench.answering_baton",
    "llama.cpp": "bench.answering_llama",
    "vllm": "bench.answering_vllm",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """
    Attributes:
        num_timed: Tokens that came within `seconds`.
        token_ids: What was written to each prompt.
    """

    seconds: float
    num_timed: int
    token_ids: list[list[int]]


class Answering(Protocol):
    def answer(self, way: str, prompts: Sequence[Sequence[int]], num_tokens: int) -> Answer:
        """Raises: RuntimeError: this engine does not do it; says why."""


def reply(engine: Answering, job: dict[str, Any]) -> dict[str, Any]:
    try:
        return asdict(engine.answer(job["way"], job["prompts"], job["tokens"]))
    except RuntimeError as error:
        return {"error": str(error)}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")  # what libraries print goes to stderr
    os.dup2(2, 1)
    settings = json.loads(sys.argv[1])
    engine: Answering = importlib.import_module(SIDES[settings["side"]]).start(settings)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(reply(engine, json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
