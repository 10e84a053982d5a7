"""What a scrape says of blocks is held to what the controller says."""

from tools.soak.scrape import blocks_in, held, sums_that_are_off

TEXT = """\
# TYPE baton_worker_blocks gauge
baton_worker_blocks{worker="decode-0",role="decode",state="free"} 3.0
baton_worker_blocks{worker="decode-0",role="decode",state="cached"} 5.0
baton_worker_blocks{worker="decode-0",role="decode",state="referenced"} 2.0
baton_worker_blocks{worker="decode-0",role="decode",state="quarantined"} 0.0
"""


def view(num_blocks: int) -> dict[str, object]:
    return {"workers": [{"worker_id": "decode-0", "num_blocks": num_blocks}]}


def test_blocks_by_state_are_all_that_a_worker_has() -> None:
    blocks = blocks_in(TEXT)
    assert sums_that_are_off(blocks, view(10)) == []
    (off,) = sums_that_are_off(blocks, view(11))
    assert off.startswith("blocks of decode-0 by state are")


def test_blocks_that_are_held_are_named() -> None:
    assert held(blocks_in(TEXT)) == ["decode-0 has 2 blocks referenced with nothing running, says /metrics"]
    assert held(blocks_in(TEXT.replace("2.0", "0.0"))) == []


def test_a_version_that_tells_no_states_is_asked_for_none() -> None:
    assert not blocks_in('# TYPE baton_worker_blocks gauge\nbaton_worker_blocks{worker="decode-0"} 10.0\n')
