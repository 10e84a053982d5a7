"""The corpus follows from its seed, has every family, and servers know its fields."""

from collections import Counter

from cluster.ingress.messages_api.body import parse_body as parse_messages
from cluster.ingress.responses_api.body import parse_body as parse_responses
from tools.soak.ask import GRPC
from tools.soak.corpus import corpus


def test_the_same_seed_gives_the_same_requests() -> None:
    assert corpus(1, 60, "demo") == corpus(1, 60, "demo")
    assert corpus(1, 60, "demo") != corpus(2, 60, "demo")


def test_every_family_is_there_and_most_requests_are_of_the_common_ones() -> None:
    families = Counter(ask.family for ask in corpus(1, 200, "demo"))
    assert len(families) == 15
    assert families["completion"] > families["tools"]


def test_answers_are_decided_by_seed_or_greed() -> None:
    for ask in corpus(1, 200, "demo"):
        assert ask.body.get("temperature") == 0 or "seed" in ask.body


def test_agents_apis_take_theirs() -> None:
    for ask in corpus(1, 200, "demo"):
        if ask.api == "responses":
            parse_responses(ask.body)
        if ask.api == "messages":
            parse_messages(ask.body)
        assert (ask.api == GRPC) is ("model" not in ask.body)
