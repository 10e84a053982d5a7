"""Has the teacher write answers to an endless series of prompts, and puts them on disk as they come."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from cluster.ingress.tokenizer import Tokenizer
from tools.distillation.answers import Answer, write_shard
from tools.distillation.prompts import OWN, Prompts
from tools.distillation.teacher import Teacher, Writing

OWN_QUESTION = "own question"
OWN_TOKENS = 128  # of a question that the teacher writes, at most; a longer one is dropped
PROMPT_TOKENS = 400
SAMPLED_SHARE = 0.4  # of the answers; the rest are greedy
SAMPLED_TEMPERATURE = 0.7
SHARD_ANSWERS = 64
MARK = "\u2603"


class Chat:
    """Messages as token ids, in the model's chat template."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer(str(folder))
        self.opening = self._encode(self._render(MARK).split(MARK)[0])  # up to where the user begins to write

    def ask(self, text: str, max_tokens: int = PROMPT_TOKENS) -> list[int]:
        """`max_tokens`: of the text, which loses its end; the template comes on top."""
        ids = self._encode(text)
        return self._encode(self._render(text if len(ids) <= max_tokens else self.read(ids[:max_tokens])))

    def read(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(token_ids)

    def _render(self, text: str) -> str:
        return self._tokenizer.render_chat([{"role": "user", "content": text}])

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


class Writer:
    """Keeps the teacher busy with `concurrency` texts."""

    def __init__(self, teacher: Teacher, chat: Chat, prompts: Prompts, *, concurrency: int, max_tokens: int) -> None:
        self._teacher = teacher
        self._chat = chat
        self._draw = prompts.draw
        self._concurrency = concurrency
        self._max_tokens = max_tokens
        self._num_asked = 0

    def answers(self) -> Iterator[Answer | None]:
        """Without end, as they are finished; None after each step, for callers who look at the clock."""
        while True:
            while self._teacher.num_writing < self._concurrency:
                self._begin(self._draw())
            for writing in self._teacher.step():
                if writing.kind != OWN_QUESTION:
                    yield writing.answer()
                elif self._is_question(writing):
                    self._ask(self._chat.read(writing.token_ids[:-1]).strip())
            yield None

    def _begin(self, prompt: str) -> None:
        if prompt != OWN:
            return self._ask(prompt)
        opening = self._chat.opening
        self._teacher.ask(opening, kind=OWN_QUESTION, max_tokens=OWN_TOKENS, temperature=1.0, with_top=False)

    def _ask(self, text: str) -> None:
        self._num_asked += 1
        is_sampled = (self._num_asked * SAMPLED_SHARE) % 1 < SAMPLED_SHARE
        temperature = SAMPLED_TEMPERATURE if is_sampled else 0.0
        prompt = self._chat.ask(text)
        self._teacher.ask(prompt, kind="", max_tokens=self._max_tokens, temperature=temperature, with_top=True)

    def _is_question(self, writing: Writing) -> bool:
        return len(writing.token_ids) > 3 and writing.token_ids[-1] in self._teacher.eos_token_ids


def write_answers(answers: Iterator[Answer | None], folder: Path, writer: int, is_over: Callable[[int], bool]) -> None:
    """Shards of SHARD_ANSWERS into `folder`, until `is_over` of the number of the answers' tokens written so far."""
    folder.mkdir(parents=True, exist_ok=True)
    num_tokens, ready, began_s = 0, list[Answer](), time.process_time()
    while not is_over(num_tokens):
        answer = next(answers)
        if answer is not None:
            ready.append(answer)
            num_tokens += len(answer.top_ids)
        if len(ready) == SHARD_ANSWERS:
            _save(ready, folder, writer, {"tokens": num_tokens, "cpu_s": round(time.process_time() - began_s, 1)})
            ready = []
    if ready:
        _save(ready, folder, writer, {"tokens": num_tokens, "cpu_s": round(time.process_time() - began_s, 1)})


def _save(answers: Sequence[Answer], folder: Path, writer: int, figures: Mapping[str, float]) -> None:
    path = write_shard(folder, writer, answers)
    print(json.dumps({"shard": path.name, **figures}), flush=True)
