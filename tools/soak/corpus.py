"""Requests of every kind that the server answers, drawn from a seed: the same seed gives the same ones.

Each has a seed of its own or is greedy, so that its answer does not depend on when, where or beside what it is written.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from tools.soak.ask import GRPC, Ask

Body = dict[str, Any]
BEGINNINGS = (
    "Once upon a time there was a little girl who",
    "It was a dark night, and the old house stood alone upon the hill.",
    "The king looked at the sea and said",
    "In the morning the children found a small red door in a tree.",
    '"I will go with you," said the fox,',
    "Nobody knew where the old man had come from, but",
    "The ship had been three weeks at sea when",
    "There were two brothers; the elder one",
)
QUESTIONS = (
    "Tell me a story.",
    "Where does the fox live?",
    "What did the king say to the sea?",
    "Who opened the red door?",
)
SHARED = " ".join(BEGINNINGS) * 2  # a prefix that many prompts begin with
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["fox", "king", "ship"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
CALL_SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome", "Lima"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


class Author:
    """Draws bodies of each family; `model` is the name that the server goes by."""

    def __init__(self, rng: Random, model: str) -> None:
        self._rng = rng
        self._model = model
        self.families: dict[str, tuple[int, Callable[[], tuple[str, Body]]]] = {  # name -> weight, how it is drawn
            "completion": (5, self.completion),
            "chat": (5, self.chat),
            "choices": (3, self.choices),
            "logprobs": (3, self.logprobs),
            "json": (3, self.json),
            "tools": (2, self.tools),
            "stop": (3, self.stop),
            "long": (4, self.long),
            "shared": (5, self.shared),
            "responses": (3, self.responses),
            "messages": (3, self.messages),
            "grpc": (6, self.grpc),
            "grpc-json": (2, self.grpc_json),
            "penalties": (2, self.penalties),
            "prompts": (2, self.prompts),
        }

    def completion(self) -> tuple[str, Body]:
        return "completions", self._body(prompt=self._beginning())

    def chat(self) -> tuple[str, Body]:
        return "chat", self._body(messages=self._messages())

    def choices(self) -> tuple[str, Body]:
        api = self._rng.choice(("completions", "chat"))
        content = {"prompt": self._beginning()} if api == "completions" else {"messages": self._messages()}
        return api, self._body(**content, n=self._rng.choice((2, 2, 3))) | {"temperature": 0.9, "seed": self._seed()}

    def logprobs(self) -> tuple[str, Body]:
        if self._rng.random() < 0.5:
            return "completions", self._body(prompt=self._beginning(), logprobs=3)
        return "chat", self._body(messages=self._messages(), logprobs=True, top_logprobs=2)

    def json(self) -> tuple[str, Body]:
        form = {"type": "json_schema", "json_schema": {"name": "being", "schema": SCHEMA, "strict": True}}
        return "chat", self._body(messages=self._messages(), response_format=form) | {"max_tokens": 120}

    def tools(self) -> tuple[str, Body]:
        function = {"name": "forecast", "description": "Of the weather.", "parameters": CALL_SCHEMA, "strict": True}
        tools = [{"type": "function", "function": function}]
        return "chat", self._body(messages=self._messages(), tools=tools, tool_choice="required") | {"max_tokens": 200}

    def stop(self) -> tuple[str, Body]:
        stops = self._rng.choice(([" the"], [".", "!"], [" and the"], ["\n"]))
        return "completions", self._body(prompt=self._beginning(), stop=stops)

    def long(self) -> tuple[str, Body]:
        """Read in several chunks, by prefill where there is one."""
        text = " ".join(self._rng.choice(BEGINNINGS) for _ in range(self._rng.randrange(20, 60)))
        return "completions", self._body(prompt=text)

    def shared(self) -> tuple[str, Body]:
        return "completions", self._body(prompt=f"{SHARED} {self._beginning()}")

    def responses(self) -> tuple[str, Body]:
        body = self._body(input=self._rng.choice(QUESTIONS), instructions=self._rng.choice(BEGINNINGS))
        return "responses", body | {"max_output_tokens": body.pop("max_tokens")}

    def messages(self) -> tuple[str, Body]:
        body = self._body(messages=[{"role": "user", "content": self._rng.choice(QUESTIONS)}])
        body.pop("seed", None)  # Anthropic's has none, so that only greedy answers are known
        return "messages", body | {"temperature": 0, "stop_sequences": ["\n\n"], "system": self._rng.choice(BEGINNINGS)}

    def grpc(self) -> tuple[str, Body]:
        body = self._body(prompt=f"{SHARED if self._rng.random() < 0.4 else ''} {self._beginning()}")
        body.pop("model")
        return GRPC, body | {"logprobs": 1, "n": self._rng.choice((1, 1, 1, 2)), "ignore_eos": True}

    def grpc_json(self) -> tuple[str, Body]:
        body = self._body(prompt=self._messages()) | {"max_tokens": 120}
        body.pop("model")
        return GRPC, body | {"schema": SCHEMA, "no_whitespace": True}

    def penalties(self) -> tuple[str, Body]:
        return "completions", self._body(
            prompt=self._beginning(), frequency_penalty=0.8, presence_penalty=0.4, repetition_penalty=1.1, min_tokens=4
        )

    def prompts(self) -> tuple[str, Body]:
        return "completions", self._body(prompt=[self._beginning(), self._rng.choice(BEGINNINGS)])

    def _body(self, **fields: Any) -> Body:
        warm = self._rng.random() < 0.5
        sampling: Body = {"temperature": 0.8, "top_p": 0.95, "seed": self._seed()} if warm else {"temperature": 0}
        length = self._rng.choice((6, 12, 20, 32, 48, 64, 96))
        return {"model": self._model, "max_tokens": length, **sampling, **fields}

    def _seed(self) -> int:
        return self._rng.randrange(1 << 31)

    def _beginning(self) -> str:
        return f"{self._rng.choice(BEGINNINGS)} {self._rng.choice(BEGINNINGS)}"

    def _messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": f"{self._rng.choice(BEGINNINGS)} {self._rng.choice(QUESTIONS)}"}]


def corpus(seed: int, num_asks: int, model: str) -> list[Ask]:
    """`num_asks` requests; where there are enough of them, every family is there."""
    author = Author(Random(f"corpus {seed}"), model)
    names = [name for name, (weight, _) in author.families.items() for _ in range(weight)]
    order = [*author.families, *Random(f"order {seed}").choices(names, k=max(0, num_asks - len(author.families)))]
    asks = []
    for number, family in enumerate(order[:num_asks]):
        api, body = author.families[family][1]()
        asks.append(Ask(number=number, family=family, api=api, body=body))
    return asks
