"""One text that a draft worker follows: what is known of it, the tree of what may come, and KV for parts of the tree.

A branch is a `Sequence` with blocks of its own: the known tokens and a way down the tree, at whose last node, its tip,
the model is asked next. The first one reads the text; others are forked off it where a runner-up looks likely.

Invariant: the tokens of a branch are the known ones and those of the nodes from the root to its tip, and the KV of its
computed ones is theirs. The prefix cache is told of known tokens alone. No model here, no clock.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from workers.engine.block_manager import BlockManager, OutOfBlocksError
from workers.engine.sequence import Sequence as Seq
from workers.model.contract import ChunkKind, Sampled
from workers.speculative.branch import Ask, Branch, bare
from workers.speculative.guess_tree import Chances, Node, list_children, listed

MAX_BRANCHES = 4
MAX_NODES = 64
MIN_CHANCE = 0.02  # of a node's being on the text, seen from its end: less is not worth a pass
JOINS = 0.5  # of the best node's chance: so likely are others that are asked in the same pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Attributes:
    num_tokens: In a row that one step of the peer can use.
    max_len: Of a text, in tokens, as the draft model has it.
    ahead: False: one chain of `num_tokens`, begun anew with each news.
    keeps_drafted: KV that was computed of guesses counts where they prove right.
    """

    num_tokens: int
    max_len: int
    ahead: bool = True
    keeps_drafted: bool = True


@dataclass(slots=True)
class Counts:
    """News of texts: how much of it was foreseen, with something drafted beyond, and how much was not."""

    num_hits: int = 0
    num_misses: int = 0


class Forecast:
    """Changed by the draft engine's thread alone.

    Args:
        seq: The text so far, without blocks.
        stop_token_ids: After which nothing follows.
        copy_blocks: Copies blocks' contents, (from, to) each, before the next pass.
    """

    def __init__(
        self,
        seq: Seq,
        *,
        limits: Limits,
        stop_token_ids: frozenset[int],
        chances: Chances,
        counts: Counts,
        blocks: BlockManager,
        copy_blocks: Callable[[Sequence[tuple[int, int]]], None],
    ) -> None:
        self.known = seq
        self.root = Node(-1, seq.num_tokens)
        self.branches: list[Branch] = []
        self.is_lacking = True  # whoever decodes it has no guess of it as it is now
        self._limits = limits
        self._stops = stop_token_ids
        self._chances = chances
        self._counts = counts
        self._blocks = blocks
        self._copy_blocks = copy_blocks
        self._num_tokens = 2 * limits.num_tokens + 1 if limits.ahead else limits.num_tokens
        self._max_end = min(limits.max_len, len(seq.prompt_token_ids) + seq.params.max_tokens) - 1
        self._max_branches = MAX_BRANCHES if limits.ahead else 1
        self.params = replace(seq.params, logprobs=len(chances.of_rank) if limits.ahead else None)
        self._open: list[Node] = []  # of the tree, those the model may be asked of
        self._listed: tuple[list[int], list[int]] = ([], [])  # what is told of the tree

    @property
    def num_blocks(self) -> int:
        """Held; those that branches share count for each."""
        return sum(len(branch.seq.block_ids) for branch in self.branches)

    @property
    def num_unread(self) -> int:
        """Known tokens still to compute."""
        num_computed = self.branches[0].seq.num_computed_tokens if self.branches else 0
        return max(self.known.num_tokens - num_computed, 0)

    @property
    def guess(self) -> tuple[int, list[int], list[int]]:
        """Tokens of the text that the tree follows, and its nodes as `guess_tree.listed`. Not a copy."""
        return self.root.end, *self._listed

    def is_deep(self, num_tokens: int) -> bool:
        """Whether the likeliest tokens in a row are so many at least."""
        node = self.root
        for _ in range(num_tokens):
            if not node.children:
                return False
            node = node.children[0]
        return True

    def start(self) -> None:
        """Takes what the prefix cache has of the text; from now on there is something to compute."""
        assert not self.branches, "started before"
        self._plant(Node(-1, self.known.num_tokens))
        seq = bare(self.known, self.known.output_token_ids)
        self._blocks.allocate(seq)
        self.branches = [Branch(seq, self.root, seq.num_computed_tokens)]

    def stop(self) -> None:
        """Gives all blocks back: the text is known on, nothing is guessed."""
        self._free_all_but(())
        self._plant(Node(-1, self.known.num_tokens))

    def drop_side_branches(self) -> None:
        self._free_all_but(self.branches[:1])

    # News of the text.

    def advance(self, token_ids: Sequence[int]) -> None:
        """The text goes on with these: what was guessed below them stays, or the guess begins anew."""
        trail = self._walk(token_ids)
        self.known.output_token_ids += token_ids
        is_foreseen = len(trail) == 1 + len(token_ids) and self._limits.ahead
        root = trail[-1] if is_foreseen else Node(-1, self.known.num_tokens)
        if is_foreseen and root.children:
            self._counts.num_hits += 1
        else:
            self._counts.num_misses += 1
            self.is_lacking = True
        if self.branches:
            self._follow(trail, root)
        self._plant(root)
        if self.branches and not self._limits.keeps_drafted:
            self._read_again()

    def _walk(self, token_ids: Sequence[int]) -> list[Node]:
        """The nodes from the root on that the text goes through."""
        trail = [self.root]
        for token_id in token_ids:
            node = trail[-1]
            if node.children:
                self._chances.learn(node, token_id)
            found = node.child(token_id)
            if found is None:
                break
            trail.append(found)
        return trail

    def _follow(self, trail: Sequence[Node], root: Node) -> None:
        """Keeps the branches through `root`; or the one that is with the text the longest, which then goes there."""
        kept = [branch for branch in self.branches if branch.passes(root)]
        if kept:
            self._free_all_but(kept)
            return
        branch, end = next(
            (branch, node.end) for node in reversed(trail) for branch in self.branches if branch.passes(node)
        )
        self._free_all_but([branch])
        end = min(end, self.known.num_tokens - 1)  # what follows the last token is always asked anew
        seq, start = branch.seq, end - len(self.known.prompt_token_ids)
        seq.output_token_ids[start:] = self.known.output_token_ids[start:]
        seq.num_computed_tokens = min(seq.num_computed_tokens, end)
        branch.exact = min(branch.exact, end)
        branch.tip = root
        branch.descend()

    def _plant(self, root: Node) -> None:
        """The tree is what is under `root`, whose chance is 1."""
        root.parent = None
        scale = 1.0 / max(root.chance, 1e-9)
        self.root = root
        root.is_open = not root.children
        self._open = []
        for node in (root, *root.below()):
            node.chance *= scale
            if node.is_open:
                self._open.append(node)
        self._listed = listed(root)

    def _free_all_but(self, branches: Sequence[Branch]) -> None:
        for branch in self.branches:
            if branch not in branches:
                self._blocks.free(branch.seq)
        self.branches = list(branches)

    def _read_again(self) -> None:
        """One branch alone goes on, and computes anew what was computed as a guess."""
        self.drop_side_branches()
        branch = self.branches[0]
        branch.descend()
        branch.seq.num_computed_tokens = min(branch.seq.num_computed_tokens, branch.exact)

    # What to compute.

    def asks(self, max_rows: int, budget: int) -> list[Ask]:
        """What is to be computed next; nothing while the tree is as deep and as broad as is of use.

        Args:
            max_rows: Branches, at most.
            budget: Tokens of a text that is still read, at most.
        """
        if not self.branches:
            return []
        first = self.branches[0]
        if self.num_unread > max(budget, 1):
            return [Ask(first, budget, False, ChunkKind.PREFILL)] if budget > 0 else []
        if len(self._listed[0]) >= MAX_NODES:
            return []
        best = sorted(filter(self._is_wanted, self._open), key=_chance, reverse=True)
        found: list[Ask] = []
        for node in best:
            if len(found) >= max_rows or node.chance < JOINS * best[0].chance:
                break
            branch = self._branch_at(node, [ask.branch for ask in found])
            if branch is not None:
                found.append(self._ask(branch))
        return found

    def _is_wanted(self, node: Node) -> bool:
        return node.chance >= MIN_CHANCE and node.end < min(self.root.end + self._num_tokens, self._max_end)

    def _ask(self, branch: Branch) -> Ask:
        num_tokens = branch.seq.num_uncomputed_tokens
        is_guess = num_tokens == 1 and branch.tip is not self.root
        return Ask(branch, num_tokens, True, ChunkKind.DRAFT if is_guess else ChunkKind.PREFILL)

    def _branch_at(self, node: Node, busy: Sequence[Branch]) -> Branch | None:
        """The branch with this tip, forked off if need be; None: it cannot be had."""
        parent = node.parent
        source: Branch | None = None
        for branch in self.branches:
            if branch.tip is node:
                return branch
            if parent is not None and branch.passes(parent) and branch.seq.num_computed_tokens >= parent.end:
                source = source or branch
        if source is None:
            return None
        if len(self.branches) >= self._max_branches and not self._drop_unlikely(node.chance, [source, *busy]):
            return None
        return self._fork(source, node)

    def _drop_unlikely(self, chance: float, but: Sequence[Branch]) -> bool:
        """Whether a branch whose tip is less likely than that gave way."""
        others = [branch for branch in self.branches[1:] if branch not in but and branch.tip.chance < chance]
        if not others:
            return False
        worst = min(others, key=lambda branch: branch.tip.chance)
        self._free_all_but([branch for branch in self.branches if branch is not worst])
        return True

    def _fork(self, source: Branch, node: Node) -> Branch | None:
        end = node.end - 1
        tokens = source.seq.output_token_ids[: end - len(self.known.prompt_token_ids)]
        seq = bare(self.known, [*tokens, node.token_id])
        try:
            pairs = self._blocks.fork(source.seq, seq, end)
        except OutOfBlocksError:
            return None
        if pairs:
            self._copy_blocks(pairs)
        branch = Branch(seq, node, min(source.exact, end))
        self.branches.append(branch)
        return branch

    # What came of it.

    def computed(self, ask: Ask) -> None:
        """The KV of its tokens is in the branch's blocks."""
        branch, seq = ask.branch, ask.branch.seq
        start, seq.num_computed_tokens = seq.num_computed_tokens, seq.num_computed_tokens + ask.num_tokens
        if ask.kind is ChunkKind.PREFILL and start <= branch.exact:
            branch.exact = seq.num_computed_tokens
        if branch.tip is self.root:
            self._blocks.commit(seq)

    def take(self, ask: Ask, sampled: Sampled) -> None:
        """What the model said would follow the branch's tip."""
        tip = ask.branch.tip
        runners_up = [token_id for token_id, _ in sampled.top if token_id != sampled.token_id]
        self._chances.expand(tip, [sampled.token_id, *runners_up])
        for child in tip.children:
            child.is_open = child.token_id not in self._stops
        self._open.remove(tip)
        self._open += [child for child in tip.children if child.is_open]
        list_children(tip, *self._listed)
        ask.branch.descend()


def _chance(node: Node) -> float:
    return node.chance
