"""A small Llama-shaped model that knows the teacher's words from the start: their embedding, turned and cut.

The embedding is the larger part of so small a model. It is turned so that its main directions come first and cut after
the student's width; tied, it serves both ends. Layers begin at random: layers of the teacher, turned and cut alike (as
SliceGPT does, arXiv 2401.15024), learnt more slowly in one trial (24 steps: 6.6 nats against 5.2).
"""

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

HEAD_DIM = 64
KEPT = ("vocab_size", "max_position_embeddings", "rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id")
SELF_LOGIT = 2.0  # of the token just read, at the start: near nothing, as the rest


def build(config: LlamaConfig, *, hidden: int, num_layers: int) -> LlamaForCausalLM:
    """Random, with the teacher's vocabulary and positions.

    Args:
        hidden: A multiple of 2 * HEAD_DIM.
    """
    shape = LlamaConfig(
        **{name: getattr(config, name) for name in KEPT},
        hidden_size=hidden,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden // HEAD_DIM,
        num_key_value_heads=hidden // HEAD_DIM // 2,
        head_dim=HEAD_DIM,
        intermediate_size=4 * hidden,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(shape)


@torch.no_grad()
def begin(config: LlamaConfig, embedding: Tensor, counts: Tensor, *, hidden: int, num_layers: int) -> LlamaForCausalLM:
    """
    Args:
        config, embedding: The teacher's; [vocab_size, its width].
        counts: [vocab_size], how often each token occurs where the student will write.
    """
    student = build(config, hidden=hidden, num_layers=num_layers)
    words = embedding.float() @ main_directions(embedding.float(), counts, hidden)
    student.get_input_embeddings().weight.copy_(words)
    weights = (counts + 1).float()
    length = ((words.square().sum(-1) * weights).sum() / weights.sum()).sqrt()
    student.model.norm.weight.fill_(SELF_LOGIT / float(length) / hidden**0.5)
    return student


def main_directions(embedding: Tensor, counts: Tensor, hidden: int) -> Tensor:
    """[width, hidden], orthonormal: those that hold most of the embeddings' squares, each token as often as it
    occurs (and once more)."""
    weights = (counts + 1).float()
    moments = embedding.T @ (embedding * (weights / weights.sum())[:, None])  # [width, width]
    return torch.linalg.eigh(moments).eigenvectors[:, -hidden:].flip(1)  # ascending before
