"""Linear attention's recurrences: whole prompts by chunks, one token of many sequences, and pieces of a split prompt.

Three kinds, told apart by their arguments; S is a head's state [d_k, d_v], alpha_t = exp(log_decay_t):

- plain (`beta` None): S_t = alpha_t S_{t-1} + k_t v_t^T: lightning attention, Mamba-2, gated linear attention;
- delta rule: S_t = alpha_t S_{t-1} + beta_t k_t (v_t - k_t^T alpha_t S_{t-1})^T: gated delta rule, KDA;
- alpha is one number per head ([T, H]), one per key dimension ([T, H, d_k]), or 1 (None).

The output is out_t = q_t^T S_t. Scaling q, normalising q and k, and gates on the output are the caller's.
"""

from workers.model.linear.effect import Effect, fold, no_effect
from workers.model.linear.piece import Piece, make_piece
from workers.model.linear.scan import scan
from workers.model.linear.step import step

__all__ = ["Effect", "Piece", "fold", "make_piece", "no_effect", "scan", "step"]
