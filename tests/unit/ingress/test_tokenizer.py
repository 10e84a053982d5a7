import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from baton.errors import ConfigError, InvalidRequestError
from cluster.ingress.tokenizer import Tokenizer
from tests.unit.ingress.tokenizers import byte_level, save, sentencepiece_like

DEMO = Path(__file__).parents[3] / "workers" / "model" / "bundled" / "demo"


@pytest.fixture(scope="module", params=[byte_level, sentencepiece_like], ids=["byte-level", "sentencepiece-like"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    build: Callable[[], FastTokenizer] = request.param
    return Tokenizer(str(save(build(), tmp_path_factory.mktemp("tokenizer"))))


def pieces_of(tokenizer: Tokenizer, token_ids: list[int]) -> list[str]:
    detokenizer = tokenizer.detokenizer()
    pieces = [detokenizer.push(token_id) for token_id in token_ids]
    pieces.append(detokenizer.flush())
    assert detokenizer.num_characters == sum(map(len, pieces))
    return pieces


@settings(max_examples=300, deadline=None)
@given(token_ids=st.lists(st.integers(0, 280), max_size=40))
def test_streamed_pieces_add_up_to_the_decoding_of_all_tokens(tokenizer: Tokenizer, token_ids: list[int]) -> None:
    assert "".join(pieces_of(tokenizer, token_ids)) == tokenizer.decode(token_ids)


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_comes_back_as_it_went_in(tokenizer: Tokenizer, text: str) -> None:
    token_ids = tokenizer.encode(text)
    pieces = pieces_of(tokenizer, token_ids)
    assert "".join(pieces) == tokenizer.decode(token_ids)
    if tokenizer.decode(token_ids) == text and "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_token_ids_end_where_the_models_embedding_does(tmp_path: Path) -> None:
    folder = save(byte_level(), tmp_path)
    assert Tokenizer(str(folder)).vocab_size == byte_level().get_vocab_size()
    (folder / "config.json").write_text('{"vocab_size": 300}')
    smaller = Tokenizer(str(folder))
    assert (smaller.vocab_size, smaller.exceeds_model) == (300, True)
    (folder / "config.json").write_text('{"vocab_size": 512}')
    larger = Tokenizer(str(folder))
    assert (larger.vocab_size, larger.exceeds_model) == (512, False)


async def test_a_text_that_can_never_fit_is_refused_unread_and_one_that_fits_never(tokenizer: Tokenizer) -> None:
    longest = max((tokenizer.token_text(token_id) for token_id in range(tokenizer.vocab_size)), key=len)
    text = longest * 5000
    token_ids = tokenizer.encode(text)
    assert await tokenizer.encode_async(text, max_tokens=len(token_ids)) == token_ids
    with pytest.raises(InvalidRequestError, match=r"messages has .* characters, and over .* never fit in 9 tokens"):
        await tokenizer.encode_async(text, max_tokens=9, name="messages")


def test_a_character_of_several_tokens_is_one_piece() -> None:
    tokenizer = Tokenizer(str(DEMO))
    token_ids = tokenizer.encode("a🙂")
    assert len(token_ids) == 5
    assert pieces_of(tokenizer, token_ids) == ["a", "", "", "", "🙂", ""]


def test_an_unfinished_character_becomes_one_replacement_at_the_end() -> None:
    tokenizer = Tokenizer(str(DEMO))
    assert pieces_of(tokenizer, tokenizer.encode("a🙂")[:-1])[-1] == "\ufffd"


def test_the_window_stays_small_however_long_the_answer(tmp_path: Path) -> None:
    tokenizer = Tokenizer(str(save(sentencepiece_like(), tmp_path)))
    detokenizer = tokenizer.detokenizer()
    sizes = set()
    for token_id in tokenizer.encode("the it was the 東 " * 200):
        detokenizer.push(token_id)
        sizes.add(len(detokenizer._window))  # type: ignore[attr-defined]
    assert max(sizes) <= 10


def test_bytes_of_tokens_add_up_to_the_text() -> None:
    tokenizer = Tokenizer(str(DEMO))
    text = "Call me Ishmael — 🙂 naïve\n"
    assert b"".join(tokenizer.token_bytes(token_id) for token_id in tokenizer.encode(text)) == text.encode()


def test_special_tokens_are_left_out_of_the_text_and_have_their_name_as_bytes() -> None:
    tokenizer = Tokenizer(str(DEMO))
    (end,) = tokenizer.special_ids
    assert tokenizer.decode([end]) == "" == "".join(pieces_of(tokenizer, [end]))
    assert tokenizer.token_text(end) == tokenizer.eos_token == "<|endoftext|>"


def test_the_beginning_token_is_added_when_the_config_says_so(tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": True}
    tokenizer = Tokenizer(str(save(sentencepiece_like(), tmp_path, json.dumps(config))))
    assert tokenizer.encode("the")[0] == 1
    assert tokenizer.encode("the", add_special_tokens=False)[0] != 1
    assert tokenizer.encode("<s>the").count(1) == 1


async def test_a_long_text_is_read_on_a_thread_with_the_same_result() -> None:
    tokenizer = Tokenizer(str(DEMO))
    text = "It is a truth universally acknowledged. " * 400
    assert await tokenizer.encode_async(text) == tokenizer.encode(text)


def test_the_chat_template_file_wins_over_the_config(tmp_path: Path) -> None:
    folder = save(byte_level(), tmp_path, json.dumps({"chat_template": "config", "eos_token": "<|end|>"}))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    rendered = Tokenizer(str(folder)).render_chat([{"role": "user", "content": "hi"}])
    assert rendered == "user: hi<|end|>assistant: "


def test_a_template_that_refuses_the_messages_is_the_callers_error(tmp_path: Path) -> None:
    config = {"chat_template": "{{ raise_exception('roles must alternate') }}"}
    tokenizer = Tokenizer(str(save(byte_level(), tmp_path, json.dumps(config))))
    with pytest.raises(InvalidRequestError, match="roles must alternate") as caught:
        tokenizer.render_chat([{"role": "user", "content": "hi"}])
    assert caught.value.field == "messages"


def test_a_template_cannot_reach_out_of_its_sandbox(tmp_path: Path) -> None:
    config = {"chat_template": "{{ messages.__class__.__mro__ }}"}
    tokenizer = Tokenizer(str(save(byte_level(), tmp_path, json.dumps(config))))
    with pytest.raises(InvalidRequestError, match="unsafe"):
        tokenizer.render_chat([{"role": "user", "content": "hi"}])


def test_chat_without_a_template_says_where_to_go(tmp_path: Path) -> None:
    tokenizer = Tokenizer(str(save(byte_level(), tmp_path)))
    with pytest.raises(InvalidRequestError, match="/v1/completions"):
        tokenizer.render_chat([{"role": "user", "content": "hi"}])


def test_a_folder_without_a_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        Tokenizer(str(tmp_path))


def test_a_damaged_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="not a readable tokenizer"):
        Tokenizer(str(tmp_path))


async def test_streams_go_on_while_a_long_text_is_read() -> None:
    tokenizer = Tokenizer(str(DEMO))
    reading = asyncio.create_task(tokenizer.encode_async("It is a truth universally acknowledged. " * 20_000))
    num_turns = 0
    while not reading.done():
        await asyncio.sleep(0.001)
        num_turns += 1
    assert num_turns > 20
