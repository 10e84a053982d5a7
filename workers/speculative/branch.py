"""One way that a draft worker goes along a text's tree, with KV of its own; and what is to be computed of it next."""

from collections.abc import Sequence
from dataclasses import dataclass

from workers.engine.sequence import Sequence as Seq
from workers.model.contract import ChunkKind
from workers.speculative.guess_tree import Node


@dataclass(slots=True, eq=False)
class Branch:
    """Attributes:
    exact: Its first tokens whose KV was computed as that of a text, not as that of a guess.
    """

    seq: Seq
    tip: Node
    exact: int = 0

    def passes(self, node: Node) -> bool:
        return any(above is node for above in self.tip.above())

    def descend(self) -> None:
        """Along the likeliest nodes, as far as the model was asked."""
        while self.tip.children:
            self.tip = self.tip.children[0]
            self.seq.output_token_ids.append(self.tip.token_id)


@dataclass(frozen=True, slots=True)
class Ask:
    """The next tokens of one branch to compute. `asks`: they end at its tip, and what follows it is wanted."""

    branch: Branch
    num_tokens: int
    asks: bool
    kind: ChunkKind


def bare(seq: Seq, output_token_ids: Sequence[int]) -> Seq:
    """The same with other output, and without blocks."""
    return Seq(
        request_id=seq.request_id,
        choice=seq.choice,
        attempt=seq.attempt,
        ingress_id=seq.ingress_id,
        prompt_token_ids=seq.prompt_token_ids,
        output_token_ids=list(output_token_ids),
        params=seq.params,
        arrived_s=seq.arrived_s,
        deadline_s=seq.deadline_s,
    )
