"""One rank's process, which is in one gang after the other: `python -m tests.unit.parallel.rank_process`.

Reads a worker's spec per line, is that rank until its gang ends, and prints a line: "ended", or what went wrong.
"""

import sys
from functools import partial

import torch

from baton.errors import BatonError
from tests.unit.kv_transfer.harness import Server
from workers.kv_transfer.gang_links import FollowerLinks, Life
from workers.model.contract import RankRunner
from workers.model.places import Degrees
from workers.parallel.gang import LEADER, Gang
from workers.parallel.member import enter
from workers.parallel.runner import follow
from workers.spec import Role
from workers.spec_line import parse


def be_rank(line: str) -> str:
    spec, incarnation = parse(line)
    try:
        share, gang = enter(spec, lambda error: None)
    except BatonError as error:
        return f"refused: {error.message}"
    if spec.role is Role.DRAFT:
        return be_draft_rank(share, gang)
    life = Life(spec=spec, incarnation=incarnation, fingerprint=share.fingerprint)
    degrees = Degrees(spec.gang.tensor_parallel, spec.gang.sequence_parallel)
    links = FollowerLinks(life, share.store, gang.rank, degrees, tell=partial(gang.tell, LEADER))
    server = Server(links.servicer)
    try:
        gang.on_message(links.on_message)
        links.agent.introduce(server.address)
        follow(share, gang, links.agent)
    except (BatonError, RuntimeError) as error:
        return f"lost: {str(error).splitlines()[0]}"
    finally:
        gang.close()
        links.close()
        server.stop()
    return f"ended: {getattr(share, 'num_blocks', 0)} blocks"


def be_draft_rank(share: RankRunner, gang: Gang) -> str:
    """Which says what it holds."""
    try:
        follow(share, gang)
    except (BatonError, RuntimeError) as error:
        return f"lost: {str(error).splitlines()[0]}"
    finally:
        gang.close()
    return str(getattr(share, "held", "nothing"))


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(be_rank(line), flush=True)


if __name__ == "__main__":
    main()
