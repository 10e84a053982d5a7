"""A draft link's thread, with nobody at the other end."""

from baton.v1.draft_pb2 import DraftHello
from workers.speculative.draft_link import DraftLink


def test_a_link_that_is_closed_whenever_lets_its_thread_end() -> None:
    links = [
        DraftLink(
            "draft-0",
            "127.0.0.1:1",
            hello=DraftHello(),
            secret="s",
            on_up=lambda link: None,
            on_guesses=lambda guesses: None,
        )
        for _ in range(20)
    ]
    for link in links:
        link.close()
    for link in links:
        link._thread.join(10.0)
        assert not link._thread.is_alive()
