"""What each token means: of byte-level and of sentencepiece-like tokenizers, whatever the model's own size."""

import json
import re
from pathlib import Path

import llguidance
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

from baton.errors import ConfigError
from tests.unit.grammar.model import DEMO, EOS, VOCAB_SIZE, ids, regex
from workers.grammar.vocabulary import has_vocabulary, load_vocabulary

ANYTHING = regex(r"(.|\n)*")


def allowed(vocabulary: llguidance.LLTokenizer, grammar: str, tokens: list[int] | None = None) -> set[int]:
    matcher = llguidance.LLMatcher(vocabulary, grammar)
    assert matcher.consume_tokens(tokens or [])
    bits = matcher.compute_bitmask()
    return {token for token in range(vocabulary.vocab_size) if bits[token // 8] >> token % 8 & 1}


def sentencepiece_like(folder: Path) -> Path:
    """Spaces are parts of words, and what is no word is written byte by byte."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁thecat", "▁the", "▁cat"]
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocab=numbers, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.add_special_tokens(words[:3])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_rows_that_the_tokenizer_does_not_have_are_never_allowed() -> None:
    padded = load_vocabulary(DEMO, VOCAB_SIZE + 100, {EOS})
    assert padded.vocab_size == VOCAB_SIZE + 100
    assert max(allowed(padded, ANYTHING)) < VOCAB_SIZE


def test_a_model_with_fewer_rows_than_its_tokenizer_has_one_too() -> None:
    assert load_vocabulary(DEMO, VOCAB_SIZE - 100, {EOS}).vocab_size == VOCAB_SIZE


def test_every_end_of_text_of_the_model_is_allowed_where_a_text_may_end() -> None:
    vocabulary = load_vocabulary(DEMO, VOCAB_SIZE, {EOS, 1, 2})
    assert {EOS, 1, 2} & allowed(vocabulary, regex("a|ab")) == set()
    assert {EOS, 1, 2} <= allowed(vocabulary, regex("a|ab"), ids("a"))


def test_the_tokens_of_bytes_and_of_spaces_mean_those(tmp_path: Path) -> None:
    folder = sentencepiece_like(tmp_path)
    vocabulary = load_vocabulary(folder, 1, {2})
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert words["<0x7A>"] in allowed(vocabulary, regex("z"))
    assert words["<0xC3>"] in allowed(vocabulary, regex("é"))
    assert vocabulary.decode_bytes([words["▁the"]]) == b" the"
    assert words["▁the"] in allowed(vocabulary, regex(" the|cat"))
    assert words["▁the"] not in allowed(vocabulary, regex("the|cat"))
    matcher = llguidance.LLMatcher(vocabulary, regex("(a|c)the"))
    assert matcher.consume_token(words["a"])
    assert vocabulary.decode_bytes(matcher.compute_ff_tokens()) == b"the"  # without a space before it
    assert words["<s>"] not in allowed(vocabulary, ANYTHING)


def test_a_text_that_reads_like_a_special_token_is_spelled_with_others() -> None:
    special = json.loads((DEMO / "tokenizer.json").read_text())["added_tokens"][0]
    vocabulary = load_vocabulary(DEMO, VOCAB_SIZE, {EOS})
    matcher = llguidance.LLMatcher(vocabulary, regex(re.escape(f"a{special['content']}")))
    forced = matcher.compute_ff_tokens()
    assert special["id"] not in forced
    assert vocabulary.decode_str(forced) == f"a{special['content']}"
    assert special["id"] not in allowed(vocabulary, regex(re.escape(special["content"])))
    assert allowed(vocabulary, f"start: <[{special['id']}]>") == {special["id"]}


def test_special_tokens_of_a_sentencepiece_like_tokenizer_stay_what_they_are(tmp_path: Path) -> None:
    vocabulary = load_vocabulary(sentencepiece_like(tmp_path), 1, {2})
    matcher = llguidance.LLMatcher(vocabulary, regex("<s>the"))
    assert vocabulary.decode_str(matcher.compute_ff_tokens()) == "<s>the"
    assert all(vocabulary.is_special_token(number) for number in range(3))


def test_a_tokenizer_that_shortens_texts_does_not_shorten_what_is_forced(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "a sentence that is much longer"
    matcher = llguidance.LLMatcher(load_vocabulary(tmp_path, VOCAB_SIZE, {EOS}), regex(text))
    assert matcher.compute_ff_tokens() == ids(text)


def test_a_folder_without_a_tokenizer_or_with_a_broken_one_says_so(tmp_path: Path) -> None:
    assert not has_vocabulary(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer.json: no grammar can be followed"):
        load_vocabulary(tmp_path, 10, {0})
