"""How far the student's next token is from the teacher's, over a part of the vocabulary.

Of a vocabulary of tens of thousands nearly every token is out of the question at nearly every place. So the student's
logits are computed for the tokens that the teacher thinks likely anywhere in the batch, and for a random sample of all
others that stands for them all: each of it counts as many times as there are others for one drawn.
"""

import math

import torch
from torch import Tensor


def candidates(top_ids: Tensor, vocab_size: int, num_others: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Token ids [C], the likely ones in ascending order and then the sample; and what to add to their logits [C]."""
    is_likely = torch.zeros(vocab_size, dtype=torch.bool)
    is_likely[top_ids.cpu().flatten()] = True
    likely, others = is_likely.nonzero()[:, 0], (~is_likely).nonzero()[:, 0]
    drawn = others[torch.randperm(len(others), generator=generator)[:num_others]]
    added = torch.zeros(len(likely) + len(drawn))
    if len(drawn):
        added[len(likely) :] = math.log(len(others) / len(drawn))
    return torch.cat([likely, drawn]).to(top_ids.device), added.to(top_ids.device)


def divergence(hidden: Tensor, embedding: Tensor, tokens: tuple[Tensor, Tensor], top: tuple[Tensor, Tensor]) -> Tensor:
    """Kullback-Leibler of teacher to student in nats, mean of places; all tokens but the top ones count as one.

    Args:
        hidden: [places, width], what the student's output matrix multiplies.
        embedding: [vocab_size, width], that matrix.
        tokens: As `candidates` gives them.
        top: Token ids [places, k], all of them candidates, and their log probabilities by the teacher [places, k].
    """
    ids, added = tokens
    top_ids, taught = top
    logits = (hidden @ embedding[ids].T).float() + added  # [places, C]
    columns = torch.zeros(len(embedding), dtype=torch.int64, device=ids.device)
    columns[ids] = torch.arange(len(ids), device=ids.device)
    ours = logits.gather(1, columns[top_ids]) - logits.logsumexp(-1, keepdim=True)
    rest, our_rest = _rest(taught), _rest(ours)
    each = (taught.exp() * (taught - ours)).sum(-1) + rest.exp() * (rest - our_rest)
    return each.mean()


def _rest(logprobs: Tensor) -> Tensor:
    """Log of the probability that [places, k] leave, at least e^-14: in half precision the teacher's may pass 1."""
    return torch.log((1 - logprobs.exp().sum(-1)).clamp(min=math.exp(-14)))
