"""All texts that a draft worker follows, of all its peers, within its blocks and its places.

Invariant: a text has blocks only while it is active; at most `max_sequences` are. Those of the peer with the fewest
active ones start first, and where blocks run out the newest text of the peer that holds most gives its own back and
waits. What a peer asks for beyond `max_followed` is not followed. No model here, no clock.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from workers.engine.block_manager import BlockManager, OutOfBlocksError
from workers.engine.sequence import Sequence as Seq
from workers.model.contract import ChunkKind
from workers.speculative.branch import Ask
from workers.speculative.forecast import Counts, Forecast, Limits
from workers.speculative.guess_tree import Chances

MAX_ROWS = 8  # in a pass, where there are fewer texts: their runners-up
CAUGHT_UP = 16  # tokens behind: no text that is read, but one whose news is computed now
READ_BESIDE = 128  # tokens of texts that are read in a pass which drafts others


@dataclass(slots=True, eq=False)
class Peer:
    """A decode worker, for as long as its stream lasts.

    Attributes:
        step_s: What its steps take, as far as is known; with the next two `Telling`'s.
    """

    limits: Limits
    texts: dict[int, Forecast] = field(default_factory=dict)  # by number, in order of arrival
    step_s: float = 0.0
    heard_s: float | None = None
    told_s: float = 0.0

    @property
    def num_active(self) -> int:
        return sum(bool(text.branches) for text in self.texts.values())

    @property
    def num_blocks(self) -> int:
        return sum(text.num_blocks for text in self.texts.values())


@dataclass(frozen=True, slots=True)
class Planned:
    """One row of a pass: whose it is, and what."""

    peer: Peer
    number: int
    text: Forecast
    ask: Ask


class Forecasts:
    """Of the draft engine's thread.

    Args:
        eos_token_ids: End a text, where its request does not ignore them.
        copy_blocks: See `Forecast`.
        splits_passes: Guesses and known tokens are computed in different passes: each is computed in another way.
    """

    def __init__(
        self,
        *,
        blocks: BlockManager,
        max_sequences: int,
        max_batched_tokens: int,
        eos_token_ids: frozenset[int],
        copy_blocks: Callable[[Sequence[tuple[int, int]]], None],
        splits_passes: bool = False,
    ) -> None:
        self.peers: list[Peer] = []
        self.counts = Counts()
        self._blocks = blocks
        self._max_sequences = max_sequences
        self._max_batched_tokens = max_batched_tokens
        self._max_followed = 8 * max_sequences
        self._eos = eos_token_ids
        self._copy_blocks = copy_blocks
        self._splits_passes = splits_passes
        self._was_guessing = False  # the last pass that was split
        self._chances = Chances()  # of all texts: a new one begins with these

    # News.

    def join(self, peer: Peer) -> None:
        self.peers.append(peer)

    def leave(self, peer: Peer) -> None:
        """Idempotent. All that it had followed is forgotten."""
        for number in list(peer.texts):
            self.forget(peer, number)
        if peer in self.peers:
            self.peers.remove(peer)

    def follow(self, peer: Peer, number: int, seq: Seq) -> None:
        """Passed over: where the peer has too many, or no model of this length could read it."""
        self.forget(peer, number)
        if len(peer.texts) >= self._max_followed or peer not in self.peers or not self._fits(seq, peer.limits):
            return
        peer.texts[number] = Forecast(
            seq,
            limits=peer.limits,
            stop_token_ids=seq.params.stops(self._eos),
            chances=self._chances,
            counts=self.counts,
            blocks=self._blocks,
            copy_blocks=self._copy_blocks,
        )

    def _fits(self, seq: Seq, limits: Limits) -> bool:
        num_held = self._blocks.num_blocks * self._blocks.block_size
        return 0 < seq.num_tokens < min(limits.max_len, num_held)

    def written(self, peer: Peer, number: int, start: int, token_ids: Sequence[int]) -> None:
        """The text goes on after its first `start` tokens. What is known of it already is passed over."""
        text = peer.texts.get(number)
        if text is None:
            return
        num_known = text.known.num_tokens
        if start > num_known:  # something was missed: it cannot be followed any more
            self.forget(peer, number)
            return
        news = token_ids[num_known - start :]
        if news:
            text.advance(news)
        if not self._fits(text.known, peer.limits):  # it has grown too long: its place and blocks are for others
            self.forget(peer, number)

    def forget(self, peer: Peer, number: int) -> None:
        text = peer.texts.pop(number, None)
        if text is not None:
            text.stop()

    # What there is.

    @property
    def texts(self) -> Iterator[Forecast]:
        return (text for peer in self.peers for text in peer.texts.values())

    @property
    def num_active(self) -> int:
        return sum(peer.num_active for peer in self.peers)

    # A pass.

    def plan(self) -> list[Planned]:
        """The rows of the next pass, whose blocks are there; none: nothing is of use until there is news."""
        self._start_some()
        active = [(peer, number, text) for peer in self.peers for number, text in peer.texts.items() if text.branches]
        max_rows = max(MAX_ROWS // max(len(active), 1), 1)
        planned: list[Planned] = []
        unread: list[tuple[Peer, int, Forecast]] = []
        for peer, number, text in active:
            rows = [Planned(peer, number, text, ask) for ask in text.asks(max_rows, CAUGHT_UP)]
            if rows and rows[0].ask.asks:
                planned += rows
            else:
                unread.append((peer, number, text))
        self._read(planned, unread)
        if self._splits_passes:
            planned = self._one_sort(planned)
        grown = [row for row in planned if self._grow(row)]
        return [row for row in grown if row.ask.branch in row.text.branches]  # others may have needed its blocks

    def _one_sort(self, planned: list[Planned]) -> list[Planned]:
        """Guesses alone, or none: what the last pass left for this one."""
        guesses = [row for row in planned if row.ask.kind is ChunkKind.DRAFT]
        if 0 < len(guesses) < len(planned):
            self._was_guessing = not self._was_guessing
            return guesses if self._was_guessing else [row for row in planned if row not in guesses]
        return planned

    def _read(self, planned: list[Planned], unread: Sequence[tuple[Peer, int, Forecast]]) -> None:
        """Adds texts that are still read, the shortest rest first."""
        budget = min(READ_BESIDE, self._max_batched_tokens) if planned else self._max_batched_tokens
        for peer, number, text in sorted(unread, key=lambda one: one[2].num_unread):
            for ask in text.asks(1, budget):
                planned.append(Planned(peer, number, text, ask))
                budget -= ask.num_tokens

    def _start_some(self) -> None:
        num_places = self._max_sequences - self.num_active
        while num_places > 0:
            waiting = [
                (peer.num_active, index, text)
                for index, peer in enumerate(self.peers)
                for text in peer.texts.values()
                if not text.branches
            ]
            if not waiting:
                return
            text = min(waiting, key=lambda one: one[:2])[2]
            _, needed = self._blocks.admission_cost(text.known)
            spare = self.num_active + 1
            if needed + spare > self._blocks.num_free_blocks and self.num_active:
                return
            text.start()
            num_places -= 1

    def _grow(self, row: Planned) -> bool:
        """Blocks for the row; False: its branch is gone, for others or for want of them."""
        seq = row.ask.branch.seq
        while row.ask.branch in row.text.branches:
            try:
                self._blocks.grow(seq, seq.num_computed_tokens + row.ask.num_tokens)
            except OutOfBlocksError:
                self._make_room(row.text)
            else:
                return True
        return False

    def _make_room(self, wanting: Forecast) -> None:
        """At the cost of runners-up, then of the newest text of the peer that holds most, `wanting` if it is that."""
        with_side = [text for text in self.texts if len(text.branches) > 1]
        if with_side:
            for text in with_side:
                text.drop_side_branches()
            return
        most = max(self.peers, key=lambda peer: peer.num_blocks)
        newest = next(text for text in reversed(most.texts.values()) if text.branches)
        newest.stop()
