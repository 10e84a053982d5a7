"""Who sends what to whom, over all degrees and numbers of heads."""

from collections import Counter
from itertools import product

import pytest

from workers.kv_transfer.lanes import Lane, lanes
from workers.model.places import Degrees, Place, Turn, divides

DEGREES = range(1, 9)
CASES = [
    (senders, receivers, heads)
    for senders, receivers, heads in product(DEGREES, DEGREES, range(1, 17))
    if divides(senders, heads) and divides(receivers, heads)
]


@pytest.mark.parametrize("degree", DEGREES)
def test_ranks_share_out_all_heads_evenly_and_in_order(degree: int) -> None:
    for num_heads in (count for count in range(1, 17) if divides(degree, count)):
        places = [Place(rank, degree).heads(num_heads) for rank in range(degree)]
        held = Counter(head for place in places for head in place)
        assert set(held) == set(range(num_heads))
        assert set(held.values()) == {Place(0, degree).num_replicas(num_heads)}
        assert len({len(place) for place in places}) == 1
        assert [place.start for place in places] == sorted(place.start for place in places)


def test_every_head_reaches_every_rank_that_holds_it_once() -> None:
    for num_senders, num_receivers, num_heads in CASES:
        moved = Counter(
            (lane.receiver.rank, head)
            for lane in lanes(Degrees(num_senders), num_receivers, [num_heads])
            for head in lane.heads(num_heads)
        )
        wanted = {(rank, head) for rank in range(num_receivers) for head in Place(rank, num_receivers).heads(num_heads)}
        assert set(moved) == wanted
        assert set(moved.values()) == {1}


def test_a_rank_sends_only_what_it_holds_and_replicas_take_turns() -> None:
    for num_senders, num_receivers, num_heads in CASES:
        sent = Counter(
            {(rank, head): 0 for rank in range(num_senders) for head in Place(rank, num_senders).heads(num_heads)}
        )
        held = set(sent)
        for lane in lanes(Degrees(num_senders), num_receivers, [num_heads]):
            sent.update((lane.sender.rank, head) for head in lane.heads(num_heads))
        assert set(sent) == held
        for head in range(num_heads):
            counts = [count for (_, other), count in sent.items() if other == head]
            assert max(counts) - min(counts) <= 1, (num_senders, num_receivers, num_heads)


def test_leaders_have_a_lane_and_equal_gangs_go_rank_to_rank() -> None:
    for num_senders, num_receivers, num_heads in CASES:
        made = lanes(Degrees(num_senders), num_receivers, [num_heads])
        assert Lane(Place(0, num_senders), Place(0, num_receivers)) in made
        if num_senders == num_receivers:
            assert [(lane.sender.rank, lane.receiver.rank) for lane in made] == [(r, r) for r in range(num_senders)]
            assert all(lane.heads(num_heads) == lane.sender.heads(num_heads) for lane in made)


def test_layers_with_other_numbers_of_heads_share_the_lanes() -> None:
    made = lanes(Degrees(4), 2, [2, 8])
    assert [(lane.sender.rank, lane.receiver.rank) for lane in made] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert [list(lane.heads(2)) for lane in made] == [[0], [], [1], []]
    assert [list(lane.heads(8)) for lane in made] == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("sequence", [1, 2, 3, 4])
def test_every_block_of_every_head_comes_by_one_lane_and_states_by_one_turn(sequence: int) -> None:
    for tensor, num_receivers, num_heads in [case for case in CASES if case[0] * sequence <= 8 and case[2] <= 8]:
        senders = Degrees(tensor, sequence)
        made = lanes(senders, num_receivers, [num_heads])
        moved = Counter(
            (lane.receiver.rank, head, block)
            for lane in made
            for head in lane.heads(num_heads)
            for block in lane.turn.blocks(range(11))
        )
        wanted = {
            (rank, head, block)
            for rank in range(num_receivers)
            for head in Place(rank, num_receivers).heads(num_heads)
            for block in range(11)
        }
        assert moved == Counter(wanted)
        assert {lane.turn.number for lane in made if lane.turn.has_states} == {sequence - 1}
        assert {lane.sending_rank for lane in made} <= set(range(senders.size))
        for lane in made:
            assert lane.senders == senders
            assert senders.place_of(lane.sending_rank) == lane.sender
            assert senders.turn_of(lane.sending_rank) == lane.turn
        assert [lane for lane in made if lane.joins_leaders] == [made[0]]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_turns_count_the_tokens_of_their_blocks(count: int) -> None:
    block_size = 4
    for num_tokens in range(70):
        blocks = [range(start, start + block_size) for start in range(0, 80, block_size)]
        for number in range(count):
            turn = Turn(number, count)
            of_turn = [token for block in turn.blocks(blocks) for token in block]
            assert turn.num_tokens(num_tokens, block_size) == sum(token < num_tokens for token in of_turn)
