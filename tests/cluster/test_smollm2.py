"""The model that is fetched by name answers questions, with the tokens of transformers' greedy generate."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import baton
from baton.errors import BatonError
from cluster.ingress.tokenizer import Tokenizer
from cluster.models.find import find_model
from tests.cluster.served import ServedCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Who wrote Romeo and Juliet?",
    "What is 2 + 2?",
    "Name three colors.",
    "How many days are in a week?",
    "Tell me a joke.",
    "Write a haiku about the sea.",
)


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCluster]:
    try:
        find_model("smollm2")
    except BatonError as error:
        pytest.skip(error.message)
    cluster = ServedCluster("smollm2", extra="served_name: smollm2")
    cluster.up()
    try:
        yield cluster
    finally:
        cluster.down()


def test_smollm2_answers_as_transformers_does(served: ServedCluster) -> None:
    from transformers import AutoModelForCausalLM

    folder = find_model("smollm2")
    tokenizer = Tokenizer(str(folder))
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = []
    with baton.Client(served.grpc) as client:
        for question in QUESTIONS:
            messages: list[baton.Message] = [{"role": "user", "content": question}]
            ids = torch.tensor([tokenizer.encode(tokenizer.render_chat(messages), add_special_tokens=False)])
            expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
            (choice,) = client.generate(messages, max_tokens=24).choices
            assert list(choice.token_ids) == expected[0, ids.shape[1] :].tolist(), question
            texts.append(choice.text)
    assert texts[0] == "The capital of France is Paris."
