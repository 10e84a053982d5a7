"""A table of what a draft brings, by category: acceptance by place, tokens a round, and speed from measured times."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from transformers import LlamaForCausalLM

from tools.distillation.answers import Answer
from tools.distillation.rounds import Guess, Tally, by_copy, by_model, play
from tools.distillation.teacher import Teacher

DEPTHS = range(1, 8)
PLACES_SHOWN = 4


def answer_all(teacher: Teacher, prompts: Mapping[str, Sequence[Sequence[int]]], max_tokens: int) -> Iterator[Answer]:
    """Greedy answers to `prompts`, token ids by category."""
    for kind, several in prompts.items():
        for prompt in several:
            teacher.ask(prompt, kind=kind, max_tokens=max_tokens, temperature=0.0, with_top=True)
    while teacher.num_writing:
        for writing in teacher.step():
            yield writing.answer()


@torch.no_grad()
def guesses(student: LlamaForCausalLM, answer: Answer) -> list[int]:
    """The student's likeliest token at each place of the answer."""
    states = student.model(torch.from_numpy(answer.token_ids)[None], use_cache=False).last_hidden_state[0]
    places = states[answer.num_prompt - 1 : -1]
    best: list[int] = (places @ student.get_input_embeddings().weight.T).argmax(-1).tolist()
    return best


def table(student: LlamaForCausalLM, answers: Sequence[Answer], step_ms: Mapping[int, float], draft_ms: float) -> str:
    """
    Args:
        step_ms: Of the target, for 1 to 8 tokens.
        draft_ms: Of the student, for one.
    """
    by_kind: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_kind[answer.kind].append(answer)
        by_kind["all"].append(answer)
    by_kind["all"] = by_kind.pop("all")  # last
    lines = ["category          tokens  acceptance by place     draft: best depth, tokens a round, speed   ngram"]
    for kind, several in by_kind.items():
        lines.append(_line(kind, several, student, step_ms, draft_ms))
    return "\n".join(lines)


def _line(
    kind: str,
    answers: Sequence[Answer],
    student: LlamaForCausalLM,
    step_ms: Mapping[int, float],
    draft_ms: float,
) -> str:
    written = [answer.token_ids[answer.num_prompt :].tolist() for answer in answers]
    prompts = [answer.token_ids[: answer.num_prompt].tolist() for answer in answers]
    guessed = [guesses(student, answer) for answer in answers]

    def model() -> list[Guess]:
        return [by_model(one) for one in guessed]

    def copy() -> list[Guess]:
        return [by_copy(prompt, answer) for prompt, answer in zip(prompts, written, strict=True)]

    places = play(list(zip(written, model(), strict=True)), PLACES_SHOWN)
    shares = " ".join(f"{places.acceptance(place):.2f}" for place in range(PLACES_SHOWN))
    mine, copied = _best(written, model, step_ms, draft_ms), _best(written, copy, step_ms, 0.0)
    return f"{kind:16} {sum(map(len, written)):7}  {shares:22}  {mine:42}  {copied}"


def _best(
    written: Sequence[Sequence[int]], guess: Callable[[], list[Guess]], step_ms: Mapping[int, float], draft_ms: float
) -> str:
    """The depth, the same in every round, with which the answers are written fastest."""
    tallies = {depth: play(list(zip(written, guess(), strict=True)), depth) for depth in DEPTHS}
    speeds = {depth: _speed(tally, step_ms, draft_ms) for depth, tally in tallies.items()}
    depth = max(speeds, key=speeds.__getitem__)
    per_round = tallies[depth].num_tokens / max(tallies[depth].rounds.total(), 1)
    return f"{depth}, {per_round:.2f}, {speeds[depth]:.2f} x"


def _speed(tally: Tally, step_ms: Mapping[int, float], draft_ms: float) -> float:
    return tally.num_tokens * step_ms[1] / max(tally.time_ms(step_ms, draft_ms), 1e-9)


def times_line(step_ms: Mapping[int, float], draft_ms: float) -> str:
    return json.dumps({"target_ms_by_tokens": {n: round(ms, 2) for n, ms in step_ms.items()}, "draft_ms": draft_ms})
