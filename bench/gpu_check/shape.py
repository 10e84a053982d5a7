"""The model that `speed` times: Qwen3-8B's config with random weights, or a tiny one of that family for dry runs.

What its steps cost at least: the bytes that a decode reads, the operations that a prompt takes.
"""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab: int
    context: int  # tokens of each sequence that decodes
    batches: tuple[int, ...]
    prompts: tuple[int, int]  # tokens, the shorter one first
    kv_dtype: str = "auto"  # as the config's `kv.dtype`

    @property
    def num_matrix_values(self) -> int:
        """Of the layers' products; norms do not count."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp)

    @property
    def num_weights(self) -> int:
        return self.num_matrix_values + 2 * self.vocab * self.hidden

    def kv_bytes(self, num_tokens: int) -> int:
        return num_tokens * self.layers * 2 * self.kv_heads * self.head_dim * (1 if self.kv_dtype == "fp8" else 2)

    def decode_bytes(self, batch: int, context: int) -> int:
        """Read by one step: every product's weights, the last one's too, and each sequence's KV."""
        return 2 * (self.num_matrix_values + self.vocab * self.hidden) + self.kv_bytes(batch * context)

    def prefill_flops(self, num_tokens: int, context: int = 0) -> float:
        """Of a chunk after `context` tokens: products, and attention to all before it and half of its own square."""
        attention = 4.0 * self.layers * self.heads * self.head_dim * num_tokens * (context + num_tokens / 2)
        return 2.0 * self.num_matrix_values * num_tokens + attention + 2.0 * self.vocab * self.hidden

    def write(self, folder: Path) -> Path:
        """config.json alone, for `load_format: dummy`."""
        config = {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.mlp,
            "vocab_size": self.vocab,
            "max_position_embeddings": 40960,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000,
            "attention_bias": False,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "torch_dtype": "bfloat16",
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        return folder


QWEN3_8B = Shape(
    name="Qwen3-8B's shape",
    hidden=4096,
    layers=36,
    heads=32,
    kv_heads=8,
    head_dim=128,
    mlp=12288,
    vocab=151936,
    context=1000,
    batches=(1, 64, 256),
    prompts=(2048, 8192),
)
TINY = Shape(
    name="a tiny shape",
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    mlp=96,
    vocab=160,
    context=40,
    batches=(1, 4),
    prompts=(32, 64),
)
