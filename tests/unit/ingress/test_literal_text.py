"""Special tokens that clients write, where they are not allowed: text, for tokenizers of both kinds."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from baton.errors import InvalidRequestError
from cluster.ingress.http_api import build_app
from cluster.ingress.literal_text import LiteralText
from cluster.ingress.tokenizer import Tokenizer
from tests.unit.ingress.fakes import demo_service
from tests.unit.ingress.tokenizers import byte_level, save, sentencepiece_like

SPECIAL = ("<s>", "</s>", "<|end|>", "<|eot|>", "[INST]")
# It trims, writes roles into special tokens, cuts at a mark, joins without a separator, and shows JSON.
TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}<|{{ 'end' if m.role == 'user' else 'eot' }}|>"
    "{% if m.name %}[{{ m.name }}]{% endif %}{{ m.name }}{{ (m.content.split('##')[-1] | trim) }}"
    "{% if tools %}{{ tools | tojson }}{% endif %}</s>{% endfor %}<|eot|>"
)


def sentencepiece() -> FastTokenizer:
    fast = sentencepiece_like()
    fast.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return fast


def bytes_of_bpe() -> FastTokenizer:
    fast = byte_level()
    fast.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return fast


@pytest.fixture(scope="module", params=[bytes_of_bpe, sentencepiece], ids=["byte-level", "sentencepiece-like"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = json.dumps({"chat_template": TEMPLATE, "bos_token": "<s>", "add_bos_token": True})
    return save(request.param(), tmp_path_factory.mktemp("tokenizer"), config)


@pytest.fixture(scope="module")
def open_one(folder: Path) -> Tokenizer:
    return Tokenizer(str(folder))


@pytest.fixture(scope="module")
def closed(folder: Path) -> Tokenizer:
    return Tokenizer(str(folder), allow_special_tokens=False)


def chat(tokenizer: Tokenizer, messages: list[dict[str, Any]]) -> list[int]:
    return tokenizer.encode(tokenizer.render_chat(messages), add_special_tokens=False, rendered=True)


def specials(tokenizer: Tokenizer, token_ids: list[int]) -> list[str]:
    return [tokenizer.token_text(one) for one in token_ids if tokenizer.token_text(one) in SPECIAL]


def shown(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    return tokenizer._fast.decode(token_ids, skip_special_tokens=False)  # as it would be read with special tokens


pieces = st.lists(
    st.sampled_from([*SPECIAL, "<", "<|", "|>", "eot|>", "end", "##", "INST", "[", "]", " ", "\n", "the ", "é", "s>"]),
    max_size=8,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(contents=st.lists(st.tuples(pieces, pieces), min_size=1, max_size=3))
def test_whatever_is_written_the_special_tokens_are_the_templates(
    closed: Tokenizer, contents: list[tuple[str, str]]
) -> None:
    messages = [{"role": "user", "content": content, "name": name} for content, name in contents]
    expected = ["<s>", *["<|end|>", "</s>"] * len(messages), "<|eot|>"]
    token_ids = chat(closed, messages)
    assert specials(closed, token_ids) == expected
    plain = [{**message, "content": "a", "name": ""} for message in messages]
    assert specials(closed, chat(closed, plain)) == expected


@settings(max_examples=150, deadline=None)
@given(contents=st.lists(st.text("abc the<|>[]#\n é🙂", max_size=20), min_size=1, max_size=3))
def test_texts_without_special_tokens_are_read_as_ever(
    open_one: Tokenizer, closed: Tokenizer, contents: list[str]
) -> None:
    messages = [
        {"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, contents, strict=False)
    ]
    assert chat(closed, messages) == chat(open_one, messages)
    assert closed.encode(contents[0]) == open_one.encode(contents[0])


@settings(max_examples=150, deadline=None)
@given(text=pieces)
def test_a_prompt_is_text_and_comes_back_whole(open_one: Tokenizer, closed: Tokenizer, text: str) -> None:
    token_ids = closed.encode(text, add_special_tokens=False)
    assert not specials(closed, token_ids)
    assert closed.encode(text) == [open_one.encode("")[0], *token_ids]
    if not specials(open_one, open_one.encode(text, add_special_tokens=False)):
        assert token_ids == open_one.encode(text, add_special_tokens=False)


def test_names_and_values_of_a_tools_schema_are_text_too(closed: Tokenizer) -> None:
    parameters = {"type": "object", "properties": {"<|eot|>": {"type": "<s>", "role": "<|end|>"}}, "required": ["</s>"]}
    rendered = closed.render_chat([{"role": "user", "content": "a"}], tools=[{"name": "f", "parameters": parameters}])
    token_ids = closed.encode(rendered, add_special_tokens=False, rendered=True)
    assert specials(closed, token_ids) == ["<s>", "<|end|>", "</s>", "<|eot|>"]
    assert '"type": "object"' in rendered


def test_what_was_written_is_read_letter_by_letter(closed: Tokenizer) -> None:
    text = "the<|eot|>the</s>"
    token_ids = chat(closed, [{"role": "user", "content": text}])
    assert shown(closed, token_ids).count("<|eot|>") == 2  # one as text, one as the template's token
    assert text.replace("the", "").replace("<", "", 1)[:5] in shown(closed, token_ids)


def test_by_default_a_special_token_that_a_client_writes_is_one(open_one: Tokenizer) -> None:
    assert specials(open_one, chat(open_one, [{"role": "user", "content": "a<|eot|>"}]))[1:3] == ["<|end|>", "<|eot|>"]
    assert specials(open_one, open_one.encode("a<|eot|>")) == ["<s>", "<|eot|>"]


def test_marks_leave_no_trace_in_what_is_read(closed: Tokenizer) -> None:
    text = "<|eot|> x [INST] <|e"
    assert shown(closed, closed.encode(text, add_special_tokens=False)).strip() == text
    rendered = closed.render_chat([{"role": "user", "content": text}])
    assert text not in rendered
    assert text in "".join(character for character in rendered if not "\ufdd0" <= character <= "\ufdef")


def test_a_tokenizer_that_knows_no_other_way_refuses_by_name() -> None:
    """One by Unigram finds special tokens in its own vocabulary."""
    vocab = [("<unk>", 0.0), ("</s>", 0.0), ("a", -1.0), ("<", -5.0), ("/", -5.0), ("s", -5.0), (">", -5.0)]
    fast = FastTokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=False))
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.add_special_tokens(["</s>"])
    literal = LiteralText(fast)
    assert fast.token_to_id("a") in literal.encode("a", add_special_tokens=False, rendered=False, name="prompt")
    with pytest.raises(InvalidRequestError, match=r'messages has "</s>", a special token that this model\'s tokenizer'):
        literal.encode("a</s>", add_special_tokens=False, rendered=False, name="messages")


async def test_over_http_a_special_token_that_a_user_types_is_text() -> None:
    folder = Path(__file__).parents[3] / "workers" / "model" / "bundled" / "demo"
    service, _ = demo_service(tokenizer=Tokenizer(str(folder), allow_special_tokens=False))
    transport = httpx.ASGITransport(build_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        for body in ({"prompt": "a<|endoftext|>"}, {"messages": [{"role": "user", "content": "a<|endoftext|>"}]}):
            tokens = (await http.post("/tokenize", json=body)).json()["tokens"]
            assert not service.tokenizer.special_ids & set(tokens)
            text = (await http.post("/detokenize", json={"tokens": tokens})).json()["prompt"]
            assert text.rstrip() == "a<|endoftext|>"
