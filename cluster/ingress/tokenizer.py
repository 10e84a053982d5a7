"""Text to token ids and back for one model folder, without transformers or torch.

Reads `tokenizer.json` and `tokenizer_config.json`. Detokenizing while tokens arrive is `cluster.ingress.detokenizer`'s,
chat templates are `cluster.ingress.chat_templates`'s.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from baton.errors import ConfigError, InvalidRequestError
from cluster.ingress.chat_templates import ChatTemplates
from cluster.ingress.detokenizer import ByteLevelDetokenizer, Detokenizer, TokenBytes, WindowDetokenizer
from cluster.ingress.literal_text import LiteralText
from cluster.ingress.model_json import read_json

# Longer texts are encoded on a thread: the library takes about 1 ms for 4,000 characters, a token's time on 64 streams.
INLINE_CHARACTERS = 4096
INLINE_TOKENS = 4096  # and more ids are looked up, or read back, on a thread: 1 ms too
# Normalizing (NFC) makes at most this many characters one.
MAX_COMPOSED = 4


class Tokenizer:
    """Safe to share between requests; encoding drops the GIL."""

    def __init__(self, folder: str, *, allow_special_tokens: bool = True) -> None:
        """
        Args:
            allow_special_tokens: A special token's text is that token wherever it stands; else only where a chat
                template writes it.
        Raises: ConfigError: no readable tokenizer, or a chat template that does not compile.
        """
        self._fast = _fast_tokenizer(Path(folder))
        self._literal = None if allow_special_tokens else LiteralText(self._fast)
        settings = read_json(Path(folder, "tokenizer_config.json"))
        self.bos_token = _token_text(settings.get("bos_token"))
        self.eos_token = _token_text(settings.get("eos_token"))
        self._bos_id = self._fast.token_to_id(self.bos_token) if self.bos_token else None
        self._add_bos: bool | None = settings.get("add_bos_token")
        self.templates = ChatTemplates(Path(folder))
        self._special_texts = {"bos_token": self.bos_token, "eos_token": self.eos_token, **_special_texts(settings)}
        self._special_ids = frozenset(
            token_id for token_id, token in self._fast.get_added_tokens_decoder().items() if token.special
        )
        self._bytes = TokenBytes(self._fast, self._special_ids)
        num_tokens = self._fast.get_vocab_size(with_added_tokens=True)
        self.vocab_size = _model_vocab_size(Path(folder)) or num_tokens
        self.end_ids = _end_ids(Path(folder))  # with which an answer ends
        self.exceeds_model = num_tokens > self.vocab_size  # tokens were added for which there is no embedding
        self._max_token_characters = max(map(len, self._fast.get_vocab(with_added_tokens=True)), default=1)

    @property
    def special_ids(self) -> frozenset[int]:
        return self._special_ids

    def special_ids_of(self, texts: Collection[str]) -> frozenset[int]:
        """Those of the special tokens that are written so."""
        return frozenset(token_id for token_id in self._special_ids if self.token_text(token_id) in texts)

    def encode(
        self, text: str, *, add_special_tokens: bool = True, rendered: bool = False, name: str = "prompt"
    ) -> list[int]:
        """Token ids of a prompt; with its beginning-of-text token where the model wants one.

        Args:
            rendered: By `render_chat`; else all of it is a client's.
            name: The request's field that the text comes from, for messages.
        Raises: InvalidRequestError: half a surrogate pair, which JSON can write and no text has; a special token that
            is not allowed and cannot be read as text.
        """
        try:
            ids = self._ids(text, add_special_tokens=add_special_tokens, rendered=rendered, name=name)
        except (UnicodeEncodeError, TypeError) as error:
            raise InvalidRequestError(
                f"{name} is not Unicode text: it has half a surrogate pair (\\ud800 to \\udfff); leave it out",
                field=name,
            ) from error
        if not add_special_tokens or self._bos_id is None or self._add_bos is None:
            return ids
        has_bos = ids[:1] == [self._bos_id]
        if self._add_bos and not has_bos:
            return [self._bos_id, *ids]
        is_written = text.startswith(self.bos_token) and (rendered or self._literal is None)
        if not self._add_bos and has_bos and not is_written:
            return ids[1:]
        return ids

    def _ids(self, text: str, *, add_special_tokens: bool, rendered: bool, name: str) -> list[int]:
        if self._literal is not None:
            return self._literal.encode(text, add_special_tokens=add_special_tokens, rendered=rendered, name=name)
        # `encode` would hold the GIL throughout, whatever thread it is on.
        ids: list[int] = self._fast.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        return ids

    async def encode_async(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        rendered: bool = False,
        name: str = "prompt",
        max_tokens: int | None = None,
    ) -> list[int]:
        """Like `encode`; a long text is read on a thread, so that streams go on meanwhile.

        Raises: InvalidRequestError: as `encode`, or so long that it has more than `max_tokens` whatever it says: that
            is known at once, where reading it would keep a core busy for a minute.
        """
        if len(text) <= INLINE_CHARACTERS:
            return self.encode(text, add_special_tokens=add_special_tokens, rendered=rendered, name=name)
        if max_tokens is not None and len(text) > (limit := max_tokens * self._max_token_characters * MAX_COMPOSED):
            raise InvalidRequestError(
                f"{name} has {len(text)} characters, and over {limit} never fit in {max_tokens} tokens; shorten it",
                field=name,
            )
        return await asyncio.to_thread(
            self.encode, text, add_special_tokens=add_special_tokens, rendered=rendered, name=name
        )

    @property
    def chat_templates(self) -> tuple[str, ...]:
        """Names of the model's templates, sorted."""
        return self.templates.names

    def render_chat(self, messages: Sequence[Mapping[str, Any]], template: str = "", /, **variables: Any) -> str:
        """The prompt that a chat template of the model makes of the messages, up to where the answer begins.

        Args:
            template: Its name; empty: the default.
            variables: Further ones of the template, such as `tools`.
        Raises: InvalidRequestError: the model has no such template, or the template refuses these messages.
        """
        if self._literal is not None:
            messages, variables = self._literal.marked(messages), self._literal.marked(variables)
        known = {"add_generation_prompt": True, **self._special_texts, **variables}
        return self.templates.find(template).render(messages, known)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a finished sequence, special tokens left out."""
        return self._fast.decode(list(token_ids), skip_special_tokens=True)

    async def decode_async(self, token_ids: Sequence[int]) -> str:
        """Like `decode`; many ids on a thread."""
        if len(token_ids) <= INLINE_TOKENS:
            return self.decode(token_ids)
        return await asyncio.to_thread(self.decode, token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        """What one token stands for: a part of a character for some tokens of a byte-level vocabulary."""
        return self._bytes[token_id]

    def token_text(self, token_id: int) -> str:
        return self._bytes[token_id].decode("utf-8", errors="replace")

    def token_name(self, token_id: int) -> str:
        """As `token_text`, but of a part of a character its bytes, as OpenAI's completions do: `bytes:\\xe2\\x82`."""
        value = self._bytes[token_id]
        try:
            return value.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in value)

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """As the vocabulary writes them, a space as U+0120 or U+2581; empty for an id that it has not."""
        return [self._fast.id_to_token(token_id) or "" for token_id in token_ids]

    async def token_strings_async(self, token_ids: Sequence[int]) -> list[str]:
        """Like `token_strings`; of many ids on a thread."""
        if len(token_ids) <= INLINE_TOKENS:
            return self.token_strings(token_ids)
        return await asyncio.to_thread(self.token_strings, token_ids)

    def detokenizer(self, hidden_ids: frozenset[int] | None = None) -> Detokenizer:
        """A fresh incremental decoder for one choice's output.

        Args:
            hidden_ids: Special tokens that are left out of the text; None: all.
        """
        hidden_ids = self._special_ids if hidden_ids is None else hidden_ids
        if self._bytes.is_byte_level:
            return ByteLevelDetokenizer(self._bytes, hidden_ids)
        return WindowDetokenizer(self._fast, self._bytes, hidden_ids)


def _fast_tokenizer(folder: Path) -> FastTokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"model: {folder} has no tokenizer.json; use a folder whose tokenizer is in that format")
    try:
        return FastTokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for a file that it cannot read
        raise ConfigError(f"model: {path} is not a readable tokenizer ({error}); fetch the model again") from error


def _model_vocab_size(folder: Path) -> int:
    """The rows of the embedding, often more than the tokenizer's tokens; 0 where config.json does not say."""
    config = read_json(folder / "config.json")
    size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size", 0))
    return size if isinstance(size, int) else 0


def _end_ids(folder: Path) -> frozenset[int]:
    """As workers have them; none where the files say nothing that could be one: that is theirs to refuse."""
    found = read_json(folder / "generation_config.json").get("eos_token_id")
    if found is None:
        found = read_json(folder / "config.json").get("eos_token_id")
    return frozenset(one for one in (found if isinstance(found, list) else [found]) if type(one) is int)


def _token_text(token: Any) -> str:
    """tokenizer_config.json writes a token as text or as an object with `content`."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _special_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that have a role, by its name: templates use them."""
    return {name: text for name, token in settings.items() if name.endswith("_token") and (text := _token_text(token))}
