"""Tiny GGUF files, written by the library that llama.cpp writes them with: a Llama with a byte-level vocabulary."""

from pathlib import Path

import gguf
import numpy as np

WIDTH, INNER, LAYERS, HEADS, KV_HEADS = 64, 96, 2, 4, 2
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
F32 = gguf.GGMLQuantizationType.F32


def write(
    path: Path, kind: gguf.GGMLQuantizationType = F32, *, family: str = "llama", parts: int = 0, tokenizer: bool = True
) -> Path:
    """Random weights of a seed, the matrices in `kind`; rows of 96 stay float32 where blocks are of 256."""
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    tokens = _tokens()
    writer.add_vocab_size(len(tokens))
    if parts:
        writer.add_uint16("split.count", parts)
    if tokenizer:
        _add_tokenizer(writer, tokens)

    def add(name: str, *shape: int) -> None:
        values = rng.normal(0, 0.3, shape).astype(np.float32)
        if len(shape) == 1:
            values = 1 + values
        is_matrix = len(shape) == 2
        stored = gguf.quantize(values, kind) if is_matrix and kind is not F32 else values
        writer.add_tensor(name, stored, raw_dtype=kind if is_matrix else F32)

    add("token_embd.weight", len(tokens), WIDTH)
    add("output_norm.weight", WIDTH)
    add("output.weight", len(tokens), WIDTH)
    for layer in range(LAYERS):
        head = WIDTH // HEADS
        add(f"blk.{layer}.attn_norm.weight", WIDTH)
        add(f"blk.{layer}.ffn_norm.weight", WIDTH)
        add(f"blk.{layer}.attn_q.weight", WIDTH, WIDTH)
        add(f"blk.{layer}.attn_k.weight", KV_HEADS * head, WIDTH)
        add(f"blk.{layer}.attn_v.weight", KV_HEADS * head, WIDTH)
        add(f"blk.{layer}.attn_output.weight", WIDTH, WIDTH)
        add(f"blk.{layer}.ffn_gate.weight", INNER, WIDTH)
        add(f"blk.{layer}.ffn_up.weight", INNER, WIDTH)
        add(f"blk.{layer}.ffn_down.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tokens() -> list[str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*bytes_to_unicode().values(), "he", "ll", "<s>", "</s>", "<turn>"]


def _add_tokenizer(writer: gguf.GGUFWriter, tokens: list[str]) -> None:
    special = {"<s>", "</s>", "<turn>"}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if one in special else gguf.TokenType.NORMAL for one in tokens])
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(tokens.index("<s>"))
    writer.add_eos_token_id(tokens.index("</s>"))
    writer.add_eot_token_id(tokens.index("<turn>"))
    writer.add_chat_template(TEMPLATE)
