"""Clients that never stop asking: as many streams are open at any time, and every answer is held to what it must be."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc
import grpc.aio

import baton
from baton._connection import CHANNEL_OPTIONS
from baton.errors import BatonError
from baton.v1.inference_pb2_grpc import InferenceStub

NUM_CONNECTIONS = 4
HAIR = 2e-4  # of two likeliest tokens that are nearer to each other, either may win in another batch


class OwnConnection(baton.AsyncClient):
    """Does not share its connection with other clients of this process: HAProxy takes 100 streams on each."""

    def __init__(self, target: str) -> None:
        super().__init__(target, timeout_s=120, max_retries=0)
        options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        self._channel = grpc.aio.insecure_channel(target, options=options)
        self._stub = InferenceStub(self._channel)


@dataclass(frozen=True, slots=True)
class Question:
    prompt: tuple[int, ...]
    answer: list[int]


@dataclass(slots=True)
class OpenLoad:
    """`asked` in all, of which `wrong` and `lost` say what each got instead."""

    target: str  # host:port of gRPC
    questions: Sequence[Question]
    num_clients: int
    asked: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    _is_ending: bool = False

    async def run(self) -> None:
        """Until `end`, and the last answers."""
        async with contextlib.AsyncExitStack() as exits:
            sdks = [await exits.enter_async_context(OwnConnection(self.target)) for _ in range(NUM_CONNECTIONS)]
            clients = [self._ask_on(sdks[number % NUM_CONNECTIONS], number) for number in range(self.num_clients)]
            await asyncio.gather(*clients)

    def end(self) -> None:
        self._is_ending = True

    async def _ask_on(self, sdk: baton.AsyncClient, number: int) -> None:
        while not self._is_ending:
            await self._ask(sdk, self.questions[number % len(self.questions)])
            number += self.num_clients + 1  # another client's next time

    async def _ask(self, sdk: baton.AsyncClient, question: Question) -> None:
        self.asked += 1
        got: list[int] = []
        try:
            async with sdk.stream(
                question.prompt, max_tokens=len(question.answer), temperature=0, ignore_eos=True
            ) as stream:
                async for delta in stream:
                    got += delta.token_ids
        except BatonError as error:
            self.lost.append(f"{type(error).__name__}: {error.message}")
        else:
            if got != question.answer:
                self.wrong.append(f"{got} instead of {question.answer}")


def make_questions(folder: Path, lengths: Sequence[int], each: int, num_outputs: Sequence[int]) -> list[Question]:
    """Random prompts, and what transformers writes after them, greedy, in float32.

    Those of one length are answered together; left out are answers that hang by a hair.

    Args:
        each: Prompts of each length.
        num_outputs: Tokens of the answers, in turn.
    """
    import torch
    from transformers import AutoModelForCausalLM

    rng = Random(3)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    num_tokens, found = max(num_outputs), []
    for length in lengths:
        prompts = torch.tensor(
            [[rng.randrange(2, model.config.vocab_size) for _ in range(length)] for _ in range(each)]
        )
        made = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        best = torch.stack(made.logits).topk(2).values  # [outputs, prompts, 2]
        is_clear = (best[..., 0] - best[..., 1] > HAIR).all(dim=0)
        for row in made.sequences[is_clear].tolist():
            end = length + num_outputs[len(found) % len(num_outputs)]
            found.append(Question(tuple(row[:length]), row[length:end]))
    rng.shuffle(found)
    return found
