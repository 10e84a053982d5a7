"""Which fields of a `config.json` the planner takes a size from, and which of the others it cannot pass over."""

import re
from collections.abc import Mapping
from typing import Any

from baton.errors import ConfigError

READ = frozenset(
    {
        *("hidden_size", "vocab_size", "num_hidden_layers", "max_position_embeddings"),
        *("num_attention_heads", "num_key_value_heads", "head_dim"),
        *("intermediate_size", "ffn_dim", "word_embed_proj_dim"),
        *("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "qk_head_dim", "v_head_dim"),
        *("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim"),
        *("linear_conv_kernel_dim", "full_attention_interval"),
        *("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok", "n_shared_experts"),
        *("moe_intermediate_size", "shared_expert_intermediate_size", "first_k_dense_replace", "moe_layer_freq"),
        *("mlp_only_layers", "max_window_layers", "shared_intermediate_size"),
        *("mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_d_conv", "mamba_n_groups", "mamba_expand"),
    }
)
# Groups of experts to choose from, layers for drafts (which the engine does not load), positions, and the like.
WITHOUT_SIZE = frozenset(
    {
        *(
            "n_group",
            "topk_group",
            "num_expert_group",
            "num_nextn_predict_layers",
            "num_mtp_layers",
            "mtp_num_hidden_layers",
        ),
        *("num_mtp_modules", "mtp_num_layers", "chunk_size_feed_forward", "block_size", "max_seq_len", "n_positions"),
        *("linear_attn_alpha_factor", "linear_attn_beta_factor", "no_rope_layers", "no_rope_layer_interval"),
        *(
            "mamba_chunk_size",
            "num_logits_to_keep",
            "num_return_sequences",
            "num_beams",
            "num_beam_groups",
            "num_labels",
            "ep_size",
            "cache_implementation",
        ),
    }
)
_SIZE = re.compile(
    r"(_dims?|_rank|_size|_width|_kernel|_heads?|_experts?|_layers?|_interval|_freq|_expand|_groups?|_ratios?)$"
    r"|^(n|num|index|mamba|ssm|conv|compress|linear|mla|altup|laurel)_|^(intermediate|hidden)_size_"
)


def check_fields(config: Mapping[str, Any]) -> None:
    """
    Raises:
        ConfigError: A field that by its name gives a size, and that the planner does not know.
    """
    for name, value in config.items():
        if name not in READ | WITHOUT_SIZE and _SIZE.search(name) and _says_something(value):
            raise ConfigError(
                f"config.json: {name} {_short(value)} is not known to the planner and would change the model's size; "
                "give the config.json of a model whose layers it knows"
            )


def _says_something(value: object) -> bool:
    return bool(value) and not isinstance(value, bool | float | str)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
