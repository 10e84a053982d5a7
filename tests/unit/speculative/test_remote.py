"""What a worker that decodes makes of a draft worker's guesses, or of their absence, with a link that a test holds."""

from baton.v1.draft_pb2 import Guess, ToDrafter
from baton.v1.worker_pb2 import DraftRoute
from tests.unit.engine.driver import make_spec
from tests.unit.speculative.test_draft_model import sequence
from workers.engine.draft import Draft
from workers.engine.sequence import Sequence
from workers.model.fake import VOCAB_SIZE
from workers.speculative.draft_link import DOWN, DraftLink
from workers.speculative.goodput import Goodput
from workers.speculative.ngram import NgramDrafter
from workers.speculative.patience import FIRST_GAIN, Patience
from workers.speculative.remote import RemoteDrafter

KIND, DEPTH = 64, 4
ROUTE = DraftRoute(worker_id="draft-0", address="nowhere:1")


class HeldLink(DraftLink):
    """Up, without a thread; what is posted is kept."""

    def __init__(self) -> None:
        self.name, self.life = "draft-0", 1
        self.posted: list[ToDrafter] = []

    def post(self, life: int, message: ToDrafter) -> None:
        self.posted.append(message)

    def move(self, address: str) -> None: ...

    def check(self) -> None: ...

    def close(self) -> None: ...


class Noting(Patience):
    """Waits a little each time, and notes for how many."""

    def __init__(self) -> None:
        super().__init__()
        self.missing: list[int] = []

    def wait_s(self, num_missing: int, num_decodes: int) -> float:
        self.missing.append(num_missing)
        return 0.001 if num_missing else 0.0


def drafting(*seqs: Sequence) -> tuple[RemoteDrafter, HeldLink, Noting]:
    """For sequences that are numbers 1, 2, ..."""
    drafter = RemoteDrafter(
        make_spec(), vocab_size=VOCAB_SIZE, width=1, fallback=NgramDrafter(), goodput=Goodput(DEPTH), kind=KIND
    )
    link, patience = HeldLink(), Noting()
    drafter._links["draft-0"], drafter.patience = link, patience
    for seq in seqs:
        drafter.begins(seq, ROUTE)
    return drafter, link, patience


def guess(number: int, seq: Sequence, *token_ids: int) -> Guess:
    return Guess(number=number, base=seq.num_tokens, token_ids=token_ids, parents=range(len(token_ids)))


def test_what_was_waited_for_in_vain_is_not_waited_for_until_it_is_guessed_at_again() -> None:
    seq = sequence("a", [5, 6, 7])
    drafter, _, patience = drafting(seq)
    drafter._take([guess(1, seq, 1, 2, 3, 4)])
    assert drafter.propose([seq], DEPTH) == [Draft([1, 2, 3, 4], KIND)]
    for _ in range(3):
        seq.output_token_ids.append(9)
        drafter.propose([seq], DEPTH)
    assert patience.missing == [0, 1, 0, 0]
    drafter._take([guess(1, seq, 1, 2, 3, 4)])
    assert drafter.propose([seq], DEPTH) == [Draft([1, 2, 3, 4], KIND)]
    seq.output_token_ids.append(9)
    drafter.propose([seq], DEPTH)
    assert patience.missing[4:] == [0, 1]


def test_guesses_that_are_right_and_not_verified_are_not_worth_a_wait() -> None:
    seq = sequence("a", [5, 6, 7])
    drafter, _, patience = drafting(seq)
    drafter._take([guess(1, seq, *range(10, 40))])
    for token_id in range(10, 20):
        assert drafter.propose([seq], DEPTH)[0].token_ids[0] == token_id
        seq.output_token_ids.append(token_id)
    assert patience.gain < FIRST_GAIN / 2
    for first in range(20, 30, 2):
        drafter.propose([seq], DEPTH)
        seq.output_token_ids += [first, first + 1]
    drafter.propose([seq], DEPTH)
    assert patience.gain > FIRST_GAIN / 2


def test_reading_a_prompt_is_no_slow_answer() -> None:
    seq = sequence("a", [5, 6, 7])
    drafter, _, _ = drafting(seq)
    drafter.patience = patience = Patience()
    drafter.propose([seq], DEPTH)
    drafter._take([guess(1, seq, 1, 2, 3, 4)])
    assert patience.answer_s is None
    seq.output_token_ids.append(9)
    drafter.propose([seq], DEPTH)
    drafter._take([guess(1, seq, 1, 2, 3, 4)])
    assert patience.answer_s is not None


def test_links_that_are_lost_while_nothing_is_decoded_are_not_counted() -> None:
    seq = sequence("a", [5, 6, 7])
    drafter, link, _ = drafting(seq)
    drafter.propose([seq], DEPTH)
    assert drafter.counts.num_peers == 1
    drafter.ends(seq.key)
    link.life, drafter._checked_s = DOWN, 0.0
    drafter.propose([], DEPTH)
    assert drafter.counts.num_peers == 0


def rest(drafter: RemoteDrafter, *, is_resting: bool) -> None:
    for num_decodes in (1, 2):
        drafter.rest.begin(num_decodes)
        drafter.rest._load.is_resting = is_resting


def test_draft_workers_at_rest_hear_nothing_and_then_all() -> None:
    first, second = sequence("a", [5, 6, 7]), sequence("b", [8, 9])
    drafter, link, _ = drafting(first)
    drafter.propose([first], DEPTH)
    link.posted.clear()
    rest(drafter, is_resting=True)
    drafter.begins(second, ROUTE)
    for token_id in (1, 2):
        first.output_token_ids.append(token_id)
        drafter.propose([first, second], DEPTH)
    assert link.posted == []
    rest(drafter, is_resting=False)
    second.output_token_ids.append(3)
    drafter.propose([first, second], DEPTH)
    follow, news = link.posted
    assert (follow.follow.number, list(follow.follow.output_token_ids)) == (2, second.output_token_ids)
    ((written,)) = news.news.written
    assert (written.number, written.start, list(written.token_ids)) == (1, first.num_tokens - 2, [1, 2])


def test_what_began_where_more_would_rest_is_heard_of_once_it_is_decoded_among_fewer() -> None:
    first, second = sequence("a", [5, 6, 7]), sequence("b", [8, 9])
    drafter, link, _ = drafting(first)
    rest(drafter, is_resting=True)
    drafter.rest.begin(1)
    drafter.rest._load.is_resting = False
    drafter.begins(second, ROUTE)  # with it 2 are known, and 2 rest
    drafter.propose([second], DEPTH)
    assert [posted.follow.number for posted in link.posted if posted.HasField("follow")] == [1, 2]


def test_a_draft_worker_that_was_lost_at_rest_is_told_all_when_it_is_woken() -> None:
    seq = sequence("a", [5, 6, 7])
    drafter, link, _ = drafting(seq)
    drafter.propose([seq], DEPTH)
    rest(drafter, is_resting=True)
    link.life = DOWN
    drafter.propose([seq], DEPTH)
    assert not drafter.rest.is_served
    link.life = 2
    drafter._up(link)
    drafter.propose([seq], DEPTH)
    assert drafter.rest.is_served
    link.posted.clear()
    rest(drafter, is_resting=False)
    drafter.propose([seq], DEPTH)
    assert [posted.follow.number for posted in link.posted] == [1]
    assert drafter.rest.is_reading


def test_nobody_is_read_for_once_guesses_are_there_again() -> None:
    seq = sequence("a", [5, 6, 7])
    drafter, _, _ = drafting(seq)
    drafter._take([guess(1, seq, 1, 2, 3, 4)])
    rest(drafter, is_resting=True)
    drafter.propose([seq], DEPTH)
    rest(drafter, is_resting=False)
    assert not drafter.propose([seq], DEPTH)[0].token_ids  # what was guessed before is forgotten
    assert drafter.rest.is_reading
    drafter._take([guess(1, seq, 1, 2, 3, 4)])
    assert drafter.propose([seq], DEPTH) == [Draft([1, 2, 3, 4], KIND)]
    assert not drafter.rest.is_reading


def test_trees_of_many_sequences_are_cut_to_paths() -> None:
    seqs = [sequence(str(number), [5, 6, 7]) for number in range(9)]
    drafter, _, _ = drafting(*seqs)
    drafter._width = 4
    for number, seq in enumerate(seqs, 1):
        drafter._take([Guess(number=number, base=seq.num_tokens, token_ids=[1, 2, 3], parents=[0, 0, 1])])
    assert drafter.propose(seqs[:8], DEPTH)[0].parents
    assert drafter.propose(seqs, DEPTH)[0] == Draft([1, 3], KIND)
