"""Makes one rank's share of a transformers model: empty, with the modules that join the ranks, and what each weight is.

A share is the model's own code built from the config of a share; its weights are filled by `workers.model.loader`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.model.tensor_parallel.division import Division
from workers.model.tensor_parallel.fused import parts_of
from workers.model.tensor_parallel.ranks import Ranks, Total
from workers.model.tensor_parallel.shard import Shard, divided_dim, rows_shard, shard_of
from workers.model.tensor_parallel.share import num_groups, num_holders
from workers.model.tensor_parallel.summed import SplitGatedNorm, SplitNorm, SummedLinear

logger = logging.getLogger(__name__)
HEAD = "lm_head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """
    Attributes:
        model: A causal language model of transformers, its weights not filled yet.
        whole: The whole model, on the device `meta`.
        weights: By the name in `whole`: the rank's tensor, and which part it is; buffers that files have, too. Without
            those of which it holds nothing.
        head_name: Of the output head's weight, which may be the embedding's.
        head: Its rows on this rank.
    """

    model: nn.Module
    whole: nn.Module
    weights: Mapping[str, tuple[Tensor, Shard]]
    head_name: str
    head: tuple[Tensor, Shard]
    total: Total

    @property
    def num_parameters(self) -> int:
        """That this rank holds."""
        return sum(weight.numel() for weight, _ in (*self.weights.values(), self.head))


def build_share(
    auto_model: Any,
    config: Any,
    ranks: Ranks,
    division: Division,
    *,
    dtype: torch.dtype,
    device: Any,
    attention: str,
) -> Share:
    """Call `division.check` before. On the CPU the weights take no memory until they are filled."""
    from transformers.initialization import no_init_weights

    options = {"dtype": dtype, "attn_implementation": attention}
    local = division.local_config(config)
    with torch.device("meta"):
        whole = auto_model.from_config(config, **options)
    with no_init_weights(), torch.device(device):
        model = auto_model.from_config(local, **options)
    division.leave_out(model)
    total = Total(ranks)
    names = {id(weight): name for name, weight in whole.named_parameters()}
    head_name = names[id(whole.get_parameter(f"{HEAD}.weight"))]
    head = _split_head(model, whole, head_name, ranks)
    mine, theirs = model.state_dict(), whole.state_dict()
    weights = {
        name: (mine[name], _shard(name, whole, model, tuple(theirs[name].shape), tuple(mine[name].shape), ranks))
        for name in stored_names(whole)
        if name != f"{HEAD}.weight" and name in mine
    }
    _join_ranks(model, whole, ranks, total)
    return Share(model=model, whole=whole, weights=weights, head_name=head_name, head=head, total=total)


def _split_head(model: nn.Module, whole: nn.Module, name: str, ranks: Ranks) -> tuple[Tensor, Shard]:
    """Puts a head of this rank's rows in place: a view of the embedding where it is tied to that and rows divide."""
    table = whole.get_parameter(name)
    shard = rows_shard(table.shape, rank=ranks.rank, size=ranks.size)
    old = model.get_parameter(name).data
    start, end = shard.runs[0]
    is_view = name != f"{HEAD}.weight" and not shard.num_padded
    rows = old[start:end] if is_view else old.new_empty((end - start + shard.num_padded, table.shape[1]))
    head = nn.Linear(1, 1, bias=False, device="meta")
    head.weight = nn.Parameter(rows, requires_grad=False)
    head.out_features, head.in_features = rows.shape
    setattr(model, HEAD, head)
    return rows, shard


def stored_names(model: nn.Module) -> list[str]:
    """Of what files have: weights (one that two modules share by the first one's name), and some buffers."""
    stored = model.state_dict()
    return [name for name, _ in (*model.named_parameters(), *model.named_buffers()) if name in stored]


def _shard(
    name: str, whole: nn.Module, model: nn.Module, shape: tuple[int, ...], mine: tuple[int, ...], ranks: Ranks
) -> Shard:
    dim = divided_dim(name, shape, mine)
    parts = parts_of(name, whole.config, model.config, shape[dim], mine[dim]) if dim is not None else ()
    shard = shard_of(name, shape, mine, rank=ranks.rank, size=ranks.size, parts=parts)
    owner, _, last = name.rpartition(".")
    is_summed = _is_summed(whole.get_submodule(owner), model.get_submodule(owner))
    if is_summed and ranks.rank and last in ("bias", "down_proj_bias"):
        return Shard(shape=shard.shape, runs=shard.runs, is_zero=True)
    return shard


def _is_summed(whole: nn.Module, mine: nn.Module) -> bool:
    """Whether a share's module gives a part of a sum: a linear layer of fewer inputs, or experts of less width."""
    if isinstance(whole, nn.Linear) and isinstance(mine, nn.Linear):
        return whole.in_features != mine.in_features
    down = whole._parameters.get("down_proj")
    return down is not None and down.shape != mine.get_parameter("down_proj").shape


def _join_ranks(model: nn.Module, whole: nn.Module, ranks: Ranks, total: Total) -> None:
    for name, mine in list(model.named_modules()):
        original = whole.get_submodule(name)
        if _is_summed(original, mine):
            if isinstance(mine, nn.Linear):
                _replace(model, name, SummedLinear(mine, total))
            else:
                mine.register_forward_hook(lambda _module, _inputs, output: total(output))
        elif "RMSNorm" in type(mine).__name__ and original.weight.shape != mine.weight.shape:
            norm = _split_norm(name, mine, original, whole.config, ranks, total)
            if norm is not None:
                _replace(model, name, norm)


def _split_norm(
    name: str, mine: Any, original: Any, config: Any, ranks: Ranks, total: Total
) -> SplitNorm | SplitGatedNorm | None:
    """Of a norm over what several ranks have; None: this rank has all of what each mean is over."""
    if not hasattr(mine, "group_size"):
        holders = num_holders(config, ranks.size) if name.endswith("k_norm") else 1
        return SplitNorm(mine, int(original.weight.shape[0]), holders, total)
    if mine.group_size == original.group_size:
        return None
    groups = num_groups(config)
    return SplitGatedNorm(mine, original.group_size, groups, ranks.rank * groups // ranks.size, total)


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
